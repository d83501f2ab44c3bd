"""The device's session, byte by byte and second by second."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.device import (
    RECEIVE_LIMIT,
    Allowed,
    DeviceSession,
    DeviceState,
    DeviceTimings,
    Failure,
    Finished,
    Outcome,
    RecordCache,
    Result,
)
from fota_protocol.errors import LocalProtocolError, RecordRejected, Rejection, SRecordError
from fota_protocol.identity import Identification
from fota_protocol.srecord import SRecord

IDENTIFICATION: Final = Identification("0001100023593110965955141", "14")
RECORDS: Final = tuple(SRecord(1, 0x4000 + 4 * i, bytes([i] * 4)) for i in range(3))
FRAMES: Final = tuple(record.encode() for record in RECORDS)
BAD_CHECKSUM: Final = FRAMES[0][:-1] + b"0"
TIMINGS: Final = DeviceTimings(verdict=60.0, frame=30.0, refusal=2.0)


@dataclass
class Memory:
    """A target that keeps what it gets, and refuses what it is told to."""

    records: list[SRecord] = field(default_factory=list)
    version: str | None = None
    refuses: int | None = None
    """Index of the record that it refuses; of the end frame, when there are fewer records."""

    def write(self, record: SRecord) -> None:
        if self.refuses == len(self.records):
            raise RecordRejected("flash: no", reason=Rejection.FLASH, address=record.address)
        self.records.append(record)

    def finish(self, version: str) -> None:
        if self.refuses is not None:
            raise RecordRejected("no seal", reason=Rejection.SEAL)
        self.version = version


def started(
    memory: Memory | None = None, *, acks_verdict: bool = True, cache: RecordCache | None = None
) -> DeviceSession:
    """A session that has identified itself at time 0."""
    session = DeviceSession(
        IDENTIFICATION,
        memory or Memory(),
        cache=cache or RecordCache(),
        acks_verdict=acks_verdict,
        timings=TIMINGS,
    )
    assert session.start(0.0) == b"@000110002359311096595514114#"
    return session


def updating(memory: Memory | None = None, *, cache: RecordCache | None = None) -> DeviceSession:
    """A session that was allowed at time 0."""
    session = started(memory, cache=cache)
    assert session.receive(b"@4#", 0.0) == b"@"
    return session


def finished() -> DeviceSession:
    """A session that acknowledged its end frame at time 0."""
    session = updating()
    assert session.receive(FRAMES[0] + b"@1##", 0.0) == b"@@"
    return session


def feed(session: DeviceSession, pieces: Iterable[bytes], now: float = 1.0) -> bytes:
    return b"".join([session.receive(piece, now) for piece in pieces])


def result(session: DeviceSession) -> tuple[Result, Failure | Rejection | None] | None:
    return None if session.outcome is None else (session.outcome.result, session.outcome.reason)


PROTOCOL_FAILURE: Final = (Result.FAILED, Failure.PROTOCOL)


@pytest.mark.parametrize(("acks_verdict", "acks"), [(True, b"@@@@@"), (False, b"@@@@")])
def test_an_update_is_acked_frame_by_frame(acks_verdict: bool, acks: bytes) -> None:
    """N+2 acks from a device that acknowledges `@4#`, N+1 from one that does not."""
    memory = Memory()
    session = started(memory, acks_verdict=acks_verdict)

    assert acks == feed(session, [b"@4#", *FRAMES, b"@1A##"])
    assert (list(RECORDS), "1A") == (memory.records, memory.version)
    assert Outcome(Result.UPDATED, "updated", version="1A") == session.outcome
    assert session.records == len(RECORDS)


@given(st.data())
def test_frames_are_acked_however_the_stream_is_cut(data: st.DataObject) -> None:
    """Joined, split, byte by byte: the same acks and the same records."""
    stream = b"@4#" + b"".join(FRAMES) + b"@1##"
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8))), len(stream)]
    cache = RecordCache()
    for _ in ("first seen", "seen before"):
        memory = Memory()
        session = started(memory, cache=cache)
        acks = feed(session, [stream[low:high] for low, high in itertools.pairwise(cuts) if low < high])

        assert (b"@@@@@", list(RECORDS)) == (acks, memory.records)
        assert result(session) == (Result.UPDATED, None)


def test_an_update_byte_by_byte_is_acked_at_the_last_byte_of_each_frame() -> None:
    """Not a byte earlier and not a byte later."""
    session = started()
    for frame in (b"@4#", *FRAMES, b"@4##"):
        assert feed(session, [bytes([byte]) for byte in frame[:-1]]) == b""
        assert session.receive(frame[-1:], 1.0) == b"@"


@pytest.mark.parametrize(
    ("sent", "version"),
    [(b"@4##", "4"), (b"@0##", "0"), (b"@00##", "00"), (b"@ff##", "FF"), (b"@1a##", "1A"), (b"@A##", "A")],
)
@pytest.mark.parametrize("size", [1, 3, 10])
def test_an_end_frame_has_any_version(sent: bytes, version: str, size: int) -> None:
    """Letters, either case, and the two that begin like a verdict."""
    session = updating()
    session.receive(FRAMES[0], 1.0)

    assert feed(session, [sent[i : i + size] for i in range(0, len(sent), size)]) == b"@"
    assert session.outcome is not None
    assert version == session.outcome.version


@pytest.mark.parametrize("end", [b"@1##", b"@0##", b"@4##"])
def test_an_end_frame_before_any_record_is_not_acked(end: bytes) -> None:
    """Nothing came, so nothing is complete, whatever the flash holds."""
    memory = Memory()
    session = updating(memory)

    assert session.receive(end, 1.0) == b""
    assert result(session) == PROTOCOL_FAILURE
    assert memory.version is None


def test_an_end_frame_where_a_verdict_is_due_is_no_end() -> None:
    """`@4##` is `@4#` and a stray `#`."""
    session = started()

    assert session.receive(b"@4##", 1.0) == b"@"
    assert result(session) == PROTOCOL_FAILURE


def test_a_verdict_where_an_end_frame_is_due_is_waited_for() -> None:
    """`@4#` again is the beginning of `@4##`, and its rest may never come."""
    session = updating()

    assert session.receive(b"@4#", 1.0) == b""
    assert session.deadline == 30.0
    session.timeout(30.0)
    assert result(session) == (Result.FAILED, Failure.TIMEOUT)


def test_a_denial_ends_the_session() -> None:
    """Nothing is sent for it."""
    session = started()

    assert session.receive(b"@0#", 1.0) == b""
    assert (Finished(Outcome(Result.REFUSED, "refused")),) == session.events
    assert session.deadline is None


def late_close(session: DeviceSession) -> None:
    session.peer_closed(2.0)


def late_silence(session: DeviceSession) -> None:
    assert session.deadline == 3.0
    session.timeout(3.0 - 1e-9)
    assert session.outcome is None
    session.timeout(3.0)


@pytest.mark.parametrize("then", [late_close, late_silence])
@pytest.mark.parametrize(
    "pieces", [[b"@4#@0#"], [b"@4#", b"@0#"], [b"@4#", b"@", b"0", b"#"], [b"@4#" + FRAMES[0] + b"@0#"]]
)
def test_a_late_refusal_is_told_by_what_follows(pieces: list[bytes], then: Callable[[DeviceSession], None]) -> None:
    """`@0#` and then a close or two seconds of silence."""
    session = started()
    feed(session, pieces)
    then(session)

    assert Outcome(Result.REFUSED, "refused in mid-update") == session.outcome


def test_a_late_refusal_that_goes_on_is_an_end_frame() -> None:
    """One more `#` makes `@0##`."""
    session = updating()

    assert session.receive(FRAMES[0] + b"@0#", 1.0) == b"@"
    assert session.receive(b"#", 2.9) == b"@"
    assert result(session) == (Result.UPDATED, None)


@pytest.mark.parametrize("then", [b"@", b"S", b"1", b"\r", FRAMES[0]])
def test_a_late_refusal_with_something_else_behind_it_is_garbage(then: bytes) -> None:
    """Neither refused nor complete."""
    session = updating()
    session.receive(b"@0#", 1.0)

    assert session.receive(then, 1.0) == b""
    assert result(session) == PROTOCOL_FAILURE


@pytest.mark.parametrize("garbage", [b"x", b"\r\n", b"s1", b"@@", b"@#", b"#", b"SA", b"\0", b"\xff\xfe", b"@123"])
def test_garbage_is_not_acked(garbage: bytes) -> None:
    """Joined with a good record or alone; the record before it counts."""
    alone, joined = updating(), updating()

    assert alone.receive(garbage, 1.0) == b""
    assert joined.receive(FRAMES[0] + garbage, 1.0) == b"@"
    assert (PROTOCOL_FAILURE, PROTOCOL_FAILURE) == (result(alone), result(joined))
    assert (alone.records, joined.records) == (0, 1)


@pytest.mark.parametrize(
    "frame",
    [
        BAD_CHECKSUM,
        b"S100",
        b"S1" + b"03" + b"gg" * 3,
        b"S4030000FC",
        SRecord(0, 0, b"header").encode(),
        SRecord(5, 3).encode(),
        SRecord(9, 0x4000).encode(),
    ],
)
def test_what_is_no_good_data_record_is_not_acked(frame: bytes) -> None:
    """Bad checksum, bad digits, and the types that a server never sends."""
    memory = Memory()
    session = updating(memory)

    assert session.receive(FRAMES[0], 1.0) == b"@"
    assert session.receive(frame, 1.0) == b""
    assert result(session) == (Result.FAILED, Rejection.BAD_RECORD)
    assert session.outcome is not None
    assert session.outcome.detail.startswith("record 2: ")
    assert (memory.records, session.records) == ([RECORDS[0]], 1)


@pytest.mark.parametrize("warm", [False, True], ids=["first seen", "seen before"])
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
@pytest.mark.parametrize("refuses", range(len(RECORDS)))
def test_a_record_that_the_target_refuses_is_not_acked(refuses: int, joined: bool, warm: bool) -> None:
    """Those before it are; nothing behind it reaches the target, on the common path and on the other."""
    cache = RecordCache()
    if warm:
        for frame in FRAMES:
            cache.parse(frame)
    memory = Memory(refuses=refuses)
    session = updating(memory, cache=cache)
    acks = feed(session, [b"".join(FRAMES)] if joined else FRAMES)

    assert b"@" * refuses == acks
    assert Outcome(Result.FAILED, f"record {refuses + 1}: flash: no", Rejection.FLASH) == session.outcome
    assert (list(RECORDS[:refuses]), refuses) == (memory.records, session.records)
    assert session.deadline is None


def test_an_image_that_the_target_refuses_is_not_acked() -> None:
    """The device stays in its bootloader: the server must not believe that it was updated."""
    session = updating(Memory(refuses=7))

    assert session.receive(FRAMES[0] + b"@1##", 1.0) == b"@"
    assert Outcome(Result.FAILED, "end frame: no seal", Rejection.SEAL) == session.outcome


@pytest.mark.parametrize("make", [started, updating])
def test_a_lost_connection_is_a_failure_until_the_end_is_acked(make: Callable[[], DeviceSession]) -> None:
    """And no failure behind it."""
    session, done = make(), finished()
    session.peer_closed(1.0)
    done.peer_closed(1.0)

    assert result(session) == (Result.FAILED, Failure.CONNECTION_LOST)
    assert result(done) == (Result.UPDATED, None)
    assert (DeviceState.CLOSED, DeviceState.CLOSED) == (session.state, done.state)


@pytest.mark.parametrize(
    ("make", "limit", "expected"),
    [
        (started, 60.0, (Result.FAILED, Failure.TIMEOUT)),
        (updating, 30.0, (Result.FAILED, Failure.TIMEOUT)),
        (finished, 30.0, (Result.UPDATED, None)),
    ],
)
def test_a_deadline_is_exact(
    make: Callable[[], DeviceSession], limit: float, expected: tuple[Result, Failure | None]
) -> None:
    """A moment before, nothing happens; at the boundary the session is over."""
    session = make()
    state = session.state

    assert limit == session.deadline
    session.timeout(limit - 1e-9)
    assert state is session.state
    session.timeout(limit)
    assert expected == result(session)
    assert session.deadline is None


@pytest.mark.parametrize("warm", [False, True], ids=["first seen", "seen before"])
def test_only_a_whole_frame_buys_time(warm: bool) -> None:
    """A server that trickles is as good as silent."""
    cache = RecordCache()
    if warm:
        cache.parse(FRAMES[0])
    session = updating(cache=cache)
    session.receive(FRAMES[0], 10.0)
    session.receive(FRAMES[1][:5], 20.0)
    before = session.deadline
    session.receive(FRAMES[1][5:], 30.0)

    assert (before, session.deadline) == (40.0, 60.0)


def test_the_time_for_a_refusal_ends_with_the_next_frame() -> None:
    """Joined behind a record, the short limit does not stay for what follows."""
    session = updating()
    session.receive(FRAMES[0] + b"@0#", 1.0)
    session.receive(b"#", 1.5)

    assert session.deadline == 31.5


def test_the_time_for_a_refusal_is_no_longer_than_that_for_a_frame() -> None:
    """A device that waits a second for frames does not wait two behind `@0#`."""
    timings = DeviceTimings(frame=1.0, refusal=2.0)
    session = DeviceSession(IDENTIFICATION, Memory(), cache=RecordCache(), timings=timings)
    session.start(0.0)

    session.receive(b"@4#@0#", 0.5)

    assert session.deadline == 1.5


def test_a_server_may_send_ahead_up_to_a_limit() -> None:
    """Whole frames are taken as they come; more than the limit at once is refused."""
    session, flooded = updating(), updating()
    room = RECEIVE_LIMIT // len(FRAMES[0])

    assert b"@" * room == session.receive(FRAMES[0] * room, 1.0)
    assert flooded.receive(FRAMES[0] * (room + 1), 1.0) == b""
    assert result(flooded) == PROTOCOL_FAILURE


def test_a_server_that_sends_without_end_is_cut_off() -> None:
    """A session holds no more than its limit, whatever state it is in."""
    for session in (started(), updating(), finished()):
        for _ in range(100):
            session.receive(bytes(1000), 1.0)

        assert session.state in (DeviceState.CLOSED, DeviceState.FINISHED)


def test_what_comes_behind_a_denial_is_ignored() -> None:
    """In the same segment and in the next."""
    session = started()

    assert feed(session, [b"@0#@4#", FRAMES[0], b"x"]) == b""
    assert result(session) == (Result.REFUSED, None)


def test_what_comes_behind_the_end_is_ignored() -> None:
    """The update is done."""
    session = updating()

    assert feed(session, [FRAMES[0] + b"@1##@2##", FRAMES[0], b"x"]) == b"@@"
    assert session.outcome == Outcome(Result.UPDATED, "updated", version="1")


def test_a_server_that_speaks_before_the_identification_is_refused() -> None:
    """It used to be kept, and too much of it to end in a mistake of the caller's."""
    session = DeviceSession(IDENTIFICATION, Memory(), cache=RecordCache())

    assert session.deadline is None
    assert session.receive(b"@4#", 0.0) == b""
    assert result(session) == PROTOCOL_FAILURE
    assert session.deadline is None


def test_a_connection_that_never_was_is_lost() -> None:
    """A close before the start."""
    session = DeviceSession(IDENTIFICATION, Memory(), cache=RecordCache())
    session.peer_closed(0.0)

    assert result(session) == (Result.FAILED, Failure.CONNECTION_LOST)


def test_a_session_starts_once() -> None:
    """A second identification on one connection is the caller's mistake."""
    session = started()

    with pytest.raises(LocalProtocolError):
        session.start(1.0)


def test_events_tell_that_it_begins_and_how_it_ended() -> None:
    """One of each."""
    session = updating()
    session.receive(FRAMES[0] + b"@1##", 1.0)
    session.peer_closed(2.0)
    session.peer_closed(3.0)

    assert (Allowed(), Finished(Outcome(Result.UPDATED, "updated", version="1"))) == session.events


@pytest.mark.parametrize("field_name", ["verdict", "frame", "refusal"])
def test_no_time_is_zero(field_name: str) -> None:
    """A session that waits for nothing would end before it began."""
    with pytest.raises(ValueError, match="more than 0 s"):
        DeviceTimings(**{field_name: 0.0})


def test_a_cache_holds_no_more_than_its_limit() -> None:
    """It starts anew; records parsed before are parsed again, and equal."""
    cache = RecordCache(limit=2)
    first = cache.parse(FRAMES[0])
    cache.parse(FRAMES[1])

    assert first is cache.parse(FRAMES[0])
    assert first is cache.get(FRAMES[0])
    cache.parse(FRAMES[2])
    assert cache.get(FRAMES[0]) is None
    assert first == cache.parse(FRAMES[0])


@pytest.mark.parametrize("text", [BAD_CHECKSUM, b"S9030000FC", b""])
def test_a_cache_remembers_no_bad_record(text: bytes) -> None:
    """It would be acknowledged the second time."""
    cache = RecordCache()
    with pytest.raises(SRecordError):
        cache.parse(text)

    assert cache.get(text) is None


IN_STATE: Final[dict[str, Callable[[], DeviceSession]]] = {
    "idle": lambda: DeviceSession(IDENTIFICATION, Memory(), cache=RecordCache(), timings=TIMINGS),
    "identified": started,
    "updating": updating,
    "refusing target": lambda: updating(Memory(refuses=1)),
    "finished": finished,
}


@given(
    state=st.sampled_from(sorted(IN_STATE)),
    steps=st.lists(
        st.sampled_from([*FRAMES, b"".join(FRAMES), FRAMES[0][:7], BAD_CHECKSUM, b"@4#", b"@0#", b"@1##", b"#", b"@"])
        | st.binary(max_size=10)
        | st.floats(0.1, 50.0)
        | st.none(),
        max_size=12,
    ),
)
def test_nothing_that_a_server_does_raises(state: str, steps: list[bytes | float | None]) -> None:
    """Any bytes, delays and a close, from any state: acks alone are sent, and one outcome at most."""
    session = IN_STATE[state]()
    already = session.records
    now, acks = 0.0, b""
    for step in steps:
        if isinstance(step, bytes):
            acks += session.receive(step, now)
        elif isinstance(step, float):
            now += step
            acks += session.timeout(now)
        else:
            session.peer_closed(now)
        assert session.state is DeviceState.IDLE or (session.state is DeviceState.CLOSED) == (session.deadline is None)

    ends = [event for event in session.events if isinstance(event, Finished)]
    assert b"@" * len(acks) == acks
    assert session.records - already <= len(acks) <= session.records - already + 2
    assert len(ends) == (session.state is DeviceState.CLOSED)
    assert [event.outcome for event in ends] == [session.outcome] * len(ends)
