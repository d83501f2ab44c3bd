"""The server's session, byte by byte and second by second."""

from collections.abc import Callable, Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.errors import LocalProtocolError
from fota_protocol.identity import Identification, McuidFormat
from fota_protocol.server import Closed, Handshake, Identified, ServerSession, ServerState, ServerTimings
from fota_protocol.srecord import SRecord
from fota_protocol.status import Status

MCUID: Final = "0001100023593110965955141"
HELLO: Final = f"@{MCUID}#".encode()
FRAMES: Final = tuple(SRecord(1, 0x4000 + 4 * i, bytes([i] * 4)).encode() for i in range(3))
END: Final = b"@1A##"
TIMINGS: Final = ServerTimings(identification=30.0, ack=20.0, end_ack=40.0, grace=5.0)

WAIT, IMMEDIATE, AUTO = Handshake.WAIT, Handshake.IMMEDIATE, Handshake.AUTO


def identified(data: bytes = HELLO, mcuid_format: McuidFormat = McuidFormat.DECIMAL25) -> ServerSession:
    """A session that waits for its owner's decision."""
    session = ServerSession(0.0, mcuid_format=mcuid_format, timings=TIMINGS)
    assert session.receive(data, 0.0) == b""
    session.events = ()
    return session


def allowed(handshake: Handshake = AUTO, acks_verdict: bool | None = None) -> ServerSession:
    """A session behind `allow` at time 0."""
    session = identified()
    session.allow(FRAMES, "1a", 0.0, handshake=handshake, acks_verdict=acks_verdict)
    return session


def unsure_lingering() -> ServerSession:
    """A session that went on without the ack of `@4#` and has had N+1 acks."""
    session = allowed(IMMEDIATE)
    for _ in range(len(FRAMES) + 1):
        session.receive(b"@", 0.0)
    return session


def ending(handshake: Handshake = WAIT) -> ServerSession:
    """A session whose end frame is out."""
    session = allowed(handshake)
    for _ in range(len(FRAMES) + (handshake is WAIT)):
        session.receive(b"@", 0.0)
    return session


def sending() -> ServerSession:
    """A session whose first record is out, and which is sure."""
    session = allowed(WAIT)
    session.receive(b"@", 0.0)
    return session


IN_STATE: Final[dict[ServerState, Callable[[], ServerSession]]] = {
    ServerState.IDENTIFYING: lambda: ServerSession(0.0, timings=TIMINGS),
    ServerState.DECIDING: identified,
    ServerState.OFFERED: lambda: allowed(WAIT),
    ServerState.SENDING: sending,
    ServerState.ENDING: ending,
    ServerState.LINGERING: unsure_lingering,
}
"""A session in each state that is not the last, entered at time 0."""


def status(session: ServerSession) -> Status | None:
    return None if session.outcome is None else session.outcome.status


@pytest.mark.parametrize("state", IN_STATE)
def test_the_sessions_of_these_tests_are_where_they_should_be(state: ServerState) -> None:
    """Or the tests below would test something else."""
    assert state is IN_STATE[state]().state


# Handshakes: what is sent, and which acks end in success.


@pytest.mark.parametrize(
    ("handshake", "known", "first", "later"),
    [
        (WAIT, None, b"@4#", [FRAMES[0], FRAMES[1], FRAMES[2], END, b""]),
        (WAIT, False, b"@4#", [FRAMES[0], FRAMES[1], FRAMES[2], END, b""]),
        (AUTO, None, b"@4#", [FRAMES[0], FRAMES[1], FRAMES[2], END, b""]),
        (AUTO, True, b"@4#", [FRAMES[0], FRAMES[1], FRAMES[2], END, b""]),
        (AUTO, False, b"@4#", [FRAMES[0], FRAMES[1], FRAMES[2], END, b""]),
        (IMMEDIATE, None, b"@4#" + FRAMES[0], [FRAMES[1], FRAMES[2], END, b"", b""]),
        (IMMEDIATE, True, b"@4#" + FRAMES[0], [FRAMES[1], FRAMES[2], END, b"", b""]),
    ],
)
def test_a_device_that_acks_the_verdict_is_updated(
    handshake: Handshake, known: bool | None, first: bytes, later: list[bytes]
) -> None:
    """N+2 acks are success under every policy, and show what the device does."""
    session = identified()

    assert first == session.allow(FRAMES, "1a", 0.0, handshake=handshake, acks_verdict=known)
    assert later == [session.receive(b"@", 0.0) for _ in range(len(FRAMES) + 2)]
    assert Closed(Status.SUCCESSFUL, "updated") == session.outcome
    assert session.acks_verdict is True


@pytest.mark.parametrize(("handshake", "known"), [(IMMEDIATE, None), (IMMEDIATE, True), (AUTO, False), (AUTO, None)])
def test_a_device_that_does_not_ack_the_verdict_is_updated_after_a_grace(
    handshake: Handshake, known: bool | None
) -> None:
    """N+1 acks and silence are success where the session went on without the first ack."""
    session = identified()
    sent = session.allow(FRAMES, "1a", 0.0, handshake=handshake, acks_verdict=known)
    sent += session.timeout(5.0)
    for _ in range(len(FRAMES) + 1):
        sent += session.receive(b"@", 6.0)

    assert b"@4#" + b"".join(FRAMES) + END == sent
    assert (session.state, session.deadline) == (ServerState.LINGERING, 11.0)
    assert session.timeout(11.0) == b""
    assert (status(session), session.acks_verdict) == (Status.SUCCESSFUL, False)


@pytest.mark.parametrize(("handshake", "known"), [(WAIT, None), (WAIT, False), (AUTO, True)])
def test_a_session_that_counts_on_the_first_ack_waits_for_it(handshake: Handshake, known: bool | None) -> None:
    """The ack of `@4#` is due like any other."""
    session = identified()
    session.allow(FRAMES, "1a", 0.0, handshake=handshake, acks_verdict=known)

    assert session.deadline == 20.0
    assert session.timeout(20.0) == b""
    assert (status(session), session.records_sent) == (Status.TIMEOUT_CONNECTION, 0)


def test_a_late_ack_of_the_verdict_leaves_the_server_one_ahead() -> None:
    """It comes behind the grace: it counts for the first record, and the last of N+2 settles it."""
    session = allowed(AUTO)
    sent = [session.timeout(5.0)] + [session.receive(b"@", 6.0) for _ in range(len(FRAMES) + 1)]

    assert [*FRAMES, END, b""] == sent
    assert session.state is ServerState.LINGERING
    assert session.receive(b"@", 10.9) == b""
    assert (status(session), session.acks_verdict) == (Status.SUCCESSFUL, True)


@pytest.mark.parametrize("before", range(len(FRAMES) + 1))
def test_two_acks_at_once_settle_which_kind_the_device_is(before: int) -> None:
    """They acknowledge all that is out; from then on nothing may come twice and nothing lingers."""
    session = allowed(IMMEDIATE)
    for _ in range(before):
        session.receive(b"@", 0.0)

    assert [*FRAMES, END, b""][before + 1] == session.receive(b"@@", 0.0)
    assert session.acks_verdict is True
    while session.outcome is None:
        session.receive(b"@", 0.0)
    assert session.outcome.status is Status.SUCCESSFUL


@pytest.mark.parametrize("before", range(1, len(FRAMES)))
def test_two_acks_at_once_settle_it_only_once(before: int) -> None:
    """The session is sure behind them."""
    session = allowed(IMMEDIATE)
    for _ in range(before - 1):
        session.receive(b"@", 0.0)
    session.receive(b"@@", 0.0)
    session.receive(b"@@", 0.0)

    assert status(session) is Status.UNEXPECTED_ACK


def test_a_close_while_lingering_is_not_success() -> None:
    """Whether the device took the end frame, nobody knows."""
    session = unsure_lingering()
    session.peer_closed(1.0)

    assert (status(session), session.acks_verdict) == (Status.UNCONFIRMED, None)


@pytest.mark.parametrize("state", [state for state in IN_STATE if state is not ServerState.LINGERING])
def test_a_close_before_the_end_is_a_lost_connection(state: ServerState) -> None:
    """In every state that still waits for the device."""
    session = IN_STATE[state]()
    session.peer_closed(1.0)

    assert Closed(Status.CONNECTION_LOST, f"the device closed while {state.value}") == session.outcome
    assert session.deadline is None


# Acks that are none, or too many.


@pytest.mark.parametrize(
    ("state", "acks"),
    [
        (ServerState.OFFERED, 2),
        (ServerState.SENDING, 2),
        (ServerState.ENDING, 2),
        (ServerState.LINGERING, 2),
        (ServerState.OFFERED, 40),
    ],
)
def test_more_acks_than_frames_end_the_session(state: ServerState, acks: int) -> None:
    """Nothing is sent for them."""
    session = IN_STATE[state]()

    assert session.receive(b"@" * acks, 1.0) == b""
    assert Closed(Status.UNEXPECTED_ACK, f"{acks} acks for one frame") == session.outcome


@pytest.mark.parametrize("ahead", [IMMEDIATE, AUTO])
def test_three_acks_at_once_are_too_many_even_when_unsure(ahead: Handshake) -> None:
    """No more than the verdict and one record can be unacknowledged."""
    session = allowed(ahead, acks_verdict=False)
    session.receive(b"@@@", 1.0)

    assert status(session) is Status.UNEXPECTED_ACK


@pytest.mark.parametrize("data", [b"x", b"@x", b"x@", b"#", b"@#", b"\0", b"@ ", b"\xff\xfe", b"@\r\nS1", HELLO])
@pytest.mark.parametrize("state", [ServerState.OFFERED, ServerState.SENDING, ServerState.ENDING, ServerState.LINGERING])
def test_garbage_ends_the_session(state: ServerState, data: bytes) -> None:
    """Nothing is sent for it, and it is in the detail."""
    session = IN_STATE[state]()

    assert session.receive(data, 1.0) == b""
    assert session.outcome is not None
    assert session.outcome.status is Status.UNEXPECTED_ACK
    assert repr(data) in session.outcome.detail


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"\r\n\r\n"])
def test_line_ends_behind_the_frames_of_a_device_are_ignored(end: bytes) -> None:
    """Together with them or on their own."""
    session = identified(HELLO + end)
    sent = [session.allow(FRAMES, "1a", 0.0, handshake=WAIT)]
    for _ in range(len(FRAMES) + 1):
        sent += [session.receive(b"@" + end, 0.0), session.receive(end, 0.0)]
    session.receive(b"@" + end, 0.0)

    assert b"@4#" + b"".join(FRAMES) + END == b"".join(sent)
    assert status(session) is Status.SUCCESSFUL


@pytest.mark.parametrize("state", [state for state in IN_STATE if state is not ServerState.IDENTIFYING])
def test_line_ends_do_not_buy_time(state: ServerState) -> None:
    """Only an ack does."""
    session = IN_STATE[state]()
    before = session.deadline
    session.receive(b"\r\n", 3.0)

    assert before == session.deadline


# Identification.


@pytest.mark.parametrize(
    ("data", "mcuid_format", "expected"),
    [
        (HELLO, McuidFormat.DECIMAL25, Identification(MCUID)),
        (b"@" + MCUID.encode() + b"14111415#", McuidFormat.DECIMAL25, Identification(MCUID, "14111415")),
        (b"@7#", McuidFormat.HEX, Identification("7")),
        (b"@00ffAB#", McuidFormat.HEX, Identification("00FFAB")),
        (b"@" + b"e" * 64 + b"#", McuidFormat.HEX, Identification("E" * 64)),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_an_identification_is_read_in_pieces_of_any_size(
    data: bytes, mcuid_format: McuidFormat, expected: Identification, size: int
) -> None:
    """The deadline runs from the connection, however it trickles in; then the decision has its own."""
    session = ServerSession(100.0, mcuid_format=mcuid_format, timings=TIMINGS)
    for start in range(0, len(data), size):
        assert session.deadline == 130.0
        assert session.receive(data[start : start + size], 129.0) == b""

    assert (Identified(expected),) == session.events
    assert (session.state, session.deadline) == (ServerState.DECIDING, 159.0)


@pytest.mark.parametrize("mcuid_format", McuidFormat)
@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\r\n",
        b"#",
        b"@#",
        b"@@",
        b"@ 1#",
        b"@12G",
        b"@1\r\n",
        b"@-1#",
        b"\xff\xfe",
        "@é".encode(),
        b"GET / HTTP/1.1\r\n\r\n",
        b"@" + b"1" * 1023,
        b"@" + b"1" * 1023 + b"#",
        b"@" + b"1" * 5000,
    ],
)
def test_a_malformed_identification_is_denied_at_once(data: bytes, mcuid_format: McuidFormat) -> None:
    """Not at the deadline: `@0#` and the reason."""
    session = ServerSession(0.0, mcuid_format=mcuid_format)

    assert session.receive(data, 1.0) == b"@0#"
    assert (status(session), session.deadline) == (Status.UNFORMATTED_MCUID, None)


@pytest.mark.parametrize("early", [b"@", b"\r\n@", b"x", HELLO])
def test_bytes_behind_the_identification_come_too_early(early: bytes) -> None:
    """Nothing was sent that they could acknowledge; the update does not begin."""
    session = identified(HELLO + early)

    assert session.allow(FRAMES, "1", 0.0) == b""
    assert (status(session), session.records_sent) == (Status.UNEXPECTED_ACK, 0)


def test_bytes_that_come_during_the_decision_are_too_early_as_well() -> None:
    """The same bytes a segment later."""
    session = identified()
    session.receive(b"@", 0.0)

    assert session.allow(FRAMES, "1", 0.0) == b""
    assert status(session) is Status.UNEXPECTED_ACK


def test_a_flood_during_the_decision_ends_the_session() -> None:
    """No buffer is without a limit."""
    session = identified()
    for _ in range(3):
        session.receive(bytes(1000), 0.0)

    assert status(session) is Status.UNEXPECTED_ACK


# Deadlines.


@pytest.mark.parametrize(
    ("state", "limit", "expected"),
    [
        (ServerState.IDENTIFYING, 30.0, Status.TIMEOUT_CONNECTION),
        (ServerState.DECIDING, 30.0, Status.TIMEOUT_CONNECTION),
        (ServerState.OFFERED, 20.0, Status.TIMEOUT_CONNECTION),
        (ServerState.SENDING, 20.0, Status.TIMEOUT_CONNECTION),
        (ServerState.ENDING, 40.0, Status.TIMEOUT_CONNECTION),
        (ServerState.LINGERING, 5.0, Status.SUCCESSFUL),
    ],
)
def test_a_deadline_is_exact(state: ServerState, limit: float, expected: Status) -> None:
    """A moment before, nothing happens; at the boundary the session is over."""
    session = IN_STATE[state]()

    assert limit == session.deadline
    assert session.timeout(limit - 1e-9) == b""
    assert state is session.state
    assert session.timeout(limit) == b""
    assert expected is status(session)
    assert session.deadline is None


def test_the_grace_of_a_verdict_is_exact() -> None:
    """At its end the first record goes out, and the time for an ack begins."""
    session = allowed(AUTO)

    assert session.timeout(5.0 - 1e-9) == b""
    assert FRAMES[0] == session.timeout(5.0)
    assert (session.state, session.deadline) == (ServerState.SENDING, 25.0)


def test_every_ack_buys_the_time_for_one_more() -> None:
    """The deadline counts from the last frame, the end frame has its own."""
    session = allowed(WAIT)
    deadlines = []
    for now in (10.0, 20.0, 30.0, 40.0):
        session.receive(b"@", now)
        deadlines.append(session.deadline)

    assert deadlines == [30.0, 40.0, 50.0, 80.0]


def test_a_time_out_behind_the_end_does_nothing() -> None:
    """A timer may be late."""
    session = ending()
    session.receive(b"@", 1.0)
    session.events = ()

    assert (session.timeout(1000.0), session.receive(b"@@x", 1000.0)) == (b"", b"")
    session.peer_closed(1000.0)
    assert (status(session), session.events) == (Status.SUCCESSFUL, ())


@pytest.mark.parametrize("field", ["identification", "ack", "end_ack", "grace"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_time_is_zero(field: str, value: float) -> None:
    """A session that waits for nothing would end before it began."""
    with pytest.raises(ValueError, match="more than 0 s"):
        ServerTimings(**{field: value})


# The owner's calls.


@pytest.mark.parametrize("state", IN_STATE)
@pytest.mark.parametrize("reason", [Status.SUPERSEDED, Status.SERVER_STOPPED, Status.LIMIT_REACHED])
def test_a_session_can_be_abandoned_in_every_state(state: ServerState, reason: Status) -> None:
    """One event, no frame; a second time changes nothing."""
    session = IN_STATE[state]()
    before = len(session.events)
    session.abandon(reason, "why", 1.0)
    session.abandon(Status.SERVER_ERROR, "again", 2.0)

    assert session.events[before:] == (Closed(reason, "why"),)
    assert session.outcome == Closed(reason, "why")
    assert session.deadline is None


def test_a_denial_sends_its_frame_and_ends() -> None:
    """`@0#`, with the owner's status."""
    session = identified()

    assert session.deny(Status.CLIENT_UNVERIFIED, "unknown", 1.0) == b"@0#"
    assert (Closed(Status.CLIENT_UNVERIFIED, "unknown"),) == session.events


@pytest.mark.parametrize("state", [state for state in IN_STATE if state is not ServerState.DECIDING])
def test_a_decision_that_is_not_due_is_the_callers_mistake(state: ServerState) -> None:
    """It changes nothing: a denial behind `@4#` would be read as the beginning of an end frame."""
    session = IN_STATE[state]()
    acked = session.records_acked
    with pytest.raises(LocalProtocolError):
        session.allow(FRAMES, "1", 0.0)
    with pytest.raises(LocalProtocolError):
        session.deny(Status.CLIENT_UNVERIFIED, "", 0.0)

    assert (state, acked, None) == (session.state, session.records_acked, session.outcome)
    if state is ServerState.SENDING:
        session.receive(b"@", 0.0)
        session.receive(b"@", 0.0)
        session.receive(b"@", 0.0)
        assert len(FRAMES) == session.records_acked


@pytest.mark.parametrize(
    ("frames", "version", "error"),
    [((), "1", LocalProtocolError), (FRAMES, "", ValueError), (FRAMES, "123", ValueError), (FRAMES, "G", ValueError)],
)
def test_what_cannot_be_sent_is_not_allowed(frames: Sequence[bytes], version: str, error: type[Exception]) -> None:
    """The session can still be decided otherwise."""
    session = identified()
    with pytest.raises(error):
        session.allow(frames, version, 0.0)

    assert session.deny(Status.UNPROPER_FILE_FORMAT, "", 0.0) == b"@0#"


@pytest.mark.parametrize("handshake", Handshake)
def test_records_are_counted_when_they_are_acked(handshake: Handshake) -> None:
    """The one that is out does not count, whether the session goes on or was cut."""
    session = allowed(handshake, acks_verdict=False)
    if session.state is ServerState.OFFERED:
        session.receive(b"@", 0.0)
    counts = [(session.records_sent, session.records_acked)]
    for _ in FRAMES:
        session.receive(b"@", 0.0)
        counts.append((session.records_sent, session.records_acked))

    assert counts == [(1, 0), (2, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize(("acks", "expected"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3)])
def test_a_session_that_was_cut_remembers_how_far_it_came(acks: int, expected: int) -> None:
    """Records acknowledged, for the journal."""
    session = allowed(WAIT)
    for _ in range(acks):
        session.receive(b"@", 0.0)
    session.peer_closed(1.0)

    assert expected == session.records_acked


# Fuzz.


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """What a device might send, and what it would not."""
    return draw(
        st.sampled_from([b"@", b"@", b"@", b"@@", b"\r\n", b"@\r\n", b"#", HELLO, b"@4#", b"@1"])
        | st.binary(max_size=8)
    )


@given(
    state=st.sampled_from(sorted(IN_STATE, key=lambda state: state.value)),
    steps=st.lists(segments() | st.floats(0.1, 50.0) | st.just(None), max_size=12),
    handshake=st.sampled_from(Handshake),
)
def test_nothing_that_a_device_does_raises(
    state: ServerState, steps: list[bytes | float | None], handshake: Handshake
) -> None:
    """Any bytes, delays and a close, from any state: frames of this session in order, and one outcome at most."""
    session = IN_STATE[state]()
    now, sent, closed = 0.0, b"", 0
    for step in steps:
        if isinstance(step, bytes):
            sent += session.receive(step, now)
        elif isinstance(step, float):
            now += step
            sent += session.timeout(now)
        else:
            session.peer_closed(now)
        if session.state is ServerState.DECIDING and Identified(Identification(MCUID)) in session.events:
            session.events = ()
            sent += session.allow(FRAMES, "1a", now, handshake=handshake)
        closed += sum(isinstance(event, Closed) for event in session.events)
        session.events = ()

    whole = b"@4#" + b"".join(FRAMES) + END
    assert sent == b"@0#" or any(whole.startswith(sent, start) for start in range(len(whole)))
    assert (closed == 1) == (session.outcome is not None and session.deadline is None)
    assert 0 <= session.records_acked <= session.records_sent <= len(FRAMES)
