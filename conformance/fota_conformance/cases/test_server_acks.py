"""Acks: one frame, one ack. What is not an ack, or one too many, ends its own session and nothing else.

A server that went on without the ack of `@4#` cannot tell one spare ack from it. `spare` counts it: it is 1 where that
may be so, and then one more ack is legal once in a session.
"""

from typing import Final

import pytest

from fota_conformance.exchange import PlayedDevice
from fota_conformance.pace import EARLY
from fota_conformance.peer import SEGMENT_PAUSE
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.target import Handshake
from fota_conformance.wire import ACK, ALLOWED, end, identification, show

ANOTHER_ID: Final = b"(identification)"
"""Stands for the identification of the device itself."""
LINE_END: Final = b"\r\n"
"""What some modem routines append."""
FLOOD: Final = 64 * 1024
"""Bytes of a device that does not stop."""
WRONG: Final = {
    "letter": b"X",
    "digit": b"4",
    "hash": b"#",
    "NUL": b"\0",
    "high byte": b"\xff",
    "letter behind a line end": b"\r\nX",
    "@ and a letter": b"@X",
    "@ and NUL": b"@\0",
    "a new identification": ANOTHER_ID,
}
"""What is not an ack, or is followed by what is not."""
PERMISSION: Final = ALLOWED.decode("ascii")
END_FRAME: Final = "end frame"
RECORDS: Final = {"first record": 1, "later record": 4, "last record": 0}
"""Places in a session, by the number of the record that came last; 0 counts from the end."""
PLACES: Final = (PERMISSION, *RECORDS, END_FRAME)
"""Frames that want an ack."""
SURPLUS: Final = {"two": 2, "five": 5}
"""Acks at once, in the place of one."""
PACED: Final = 3
"""Records whose acks come in as many segments as a case says; the acks of the others come in one."""

pytestmark = pytest.mark.fota_devices("made-1")

# --- line ends --------------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-ACK-line-end")
@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n"], ids=["CR", "LF", "CR LF"])
def test_line_end_in_the_segment_of_the_ack_is_ignored(
    server: ServerBench, acks_permission: bool, ending: bytes
) -> None:
    """A device that ends a line behind every ack gets every record and the end frame."""
    with server.session(acks_permission=acks_permission, hurried=True) as session:
        play_with_acks(session, [ACK + ending])


@pytest.mark.fota_requirement("FOTA-ACK-line-end")
@pytest.mark.parametrize(
    "pieces",
    [(ACK, b"\r\n"), (ACK, b"\r", b"\n"), (ACK + b"\r", b"\n"), (b"\r\n" + ACK,), (b"\n" + ACK + b"\r",)],
    ids=[
        "CR LF later",
        "CR later, LF later still",
        "CR and then LF",
        "CR LF before the next ack",
        "LF and CR around the next ack",
    ],
)
def test_line_end_in_another_segment_is_ignored(server: ServerBench, pieces: tuple[bytes, ...]) -> None:
    """A line end behind an ack is ignored, too, when it comes later, or together with the next ack."""
    with server.session(hurried=True) as session:
        play_with_acks(session, pieces)


@pytest.mark.fota_requirement("FOTA-ACK-line-end")
@pytest.mark.parametrize("place", RECORDS)
def test_line_end_alone_is_no_ack(server: ServerBench, place: str) -> None:
    """CR LF without an ack brings no frame and no close; the ack behind it does."""
    with server.session(hurried=True) as session:
        reach(session, place)
        with step("a line end, and no ack"):
            session.peer.send(LINE_END, "ending a line")
            situation = f"after {show(LINE_END)} alone, behind the {place}"
            session.peer.stay_quiet(server.settle_s, situation, "nothing, and no close: a line end says nothing")
        session.ack()
        if place == "last record":
            session.expect_any_end_frame()
            session.peer.send(ACK, "acking the end frame")
        else:
            session.take_record()
            session.leave()


# --- wrong acks -------------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-ACK-wrong")
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_ack_ends_the_session(server: ServerBench, wrong: str) -> None:
    """Anything but `@` in the place of an ack ends the session: no further frame, and a close."""
    with server.session(hurried=True) as session:
        reach(session, "later record")
        raw = bytes_of(wrong, session)
        with step(f"{show(raw)} in the place of an ack"):
            session.ack(raw)
        expect_end(session, f"after {show(raw)} in the place of an ack", raw.count(ACK))


@pytest.mark.fota_requirement("FOTA-ACK-wrong")
@pytest.mark.parametrize("place", PLACES)
def test_wrong_ack_of_any_frame_ends_the_session(server: ServerBench, place: str) -> None:
    """A wrong ack ends the session in whatever state it comes."""
    with server.session(hurried=True) as session:
        reach(session, place)
        with step("a wrong ack"):
            session.peer.send(b"X", f"sending a wrong ack of the {place}")
        expect_end(session, f"after {show(b'X')} in the place of the ack of the {place}", unasked(session, place))


@pytest.mark.fota_requirement("FOTA-ACK-wrong-survived")
@pytest.mark.fota_devices("made-1", "made-2")
@pytest.mark.parametrize("wrong", ["letter", "high byte", "@ and a letter", "a new identification", "64 KiB of FF"])
def test_wrong_ack_does_no_harm(server: ServerBench, wrong: str) -> None:
    """After a wrong ack another device is updated, and so is the same one."""
    with server.session(hurried=True) as session:
        reach(session, "later record")
        raw = bytes_of(wrong, session)
        with step(f"{show(raw)} in the place of an ack"):
            session.peer.offer(raw)
            session.peer.drain(server.settle_s)
    for device in (server.devices[1], server.devices[0]):
        server.expect_still_serving(f"a wrong ack, {show(raw)}", device)


# --- surplus acks -----------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-ACK-surplus-unused")
@pytest.mark.parametrize("acks", SURPLUS)
@pytest.mark.parametrize("place", PLACES)
def test_surplus_acks_bring_no_frames(server: ServerBench, place: str, acks: str) -> None:
    """Of several acks that come at once behind a frame, one counts; the next frame waits for its own."""
    with server.session(hurried=True) as session:
        reach(session, place)
        behind = len(session.received) + (place == END_FRAME)
        legal = frames(session, behind, 1 + unasked(session, place) + spare(session))
        expect_few_frames(server, session, [SURPLUS[acks] * ACK], legal, f"behind the {place}")


@pytest.mark.fota_requirement("FOTA-ACK-surplus-unused")
def test_spare_ack_counts_once(server: ServerBench, acks_permission: bool) -> None:
    """The one ack that may be that of `@4#` is taken once: what comes behind it is surplus."""
    with server.session(acks_permission=acks_permission, hurried=True) as session:
        reach(session, "first record")
        if spare(session):
            # One for the record and one spare; then one for what came, however many come.
            expect_few_frames(server, session, [2 * ACK, 5 * ACK], frames(session, 1, 3), "behind the first record")
        else:
            expect_few_frames(server, session, [5 * ACK], frames(session, 1, 1), "behind the first record")


@pytest.mark.fota_requirement("FOTA-ACK-surplus-unused")
@pytest.mark.parametrize("acks", [1, 2, 5], ids=["one", "two", "five"])
def test_stale_acks_bring_no_frames(server: ServerBench, acks: int) -> None:
    """Acks that come along with the identification, before any frame was sent, are acks of nothing."""
    with server.session(hurried=True) as session:
        raw = identification(session.device.mcuid) + acks * ACK
        with step(f"the device names itself, and sends {acks} acks along"):
            session.peer.send(raw, "naming itself")
        waits = server.target.handshake is Handshake.WAIT
        # One that does not wait sends the first record unasked; one ack may then be that of @4#.
        legal = frames(session, 0, 0 if waits else 2)
        accepted = "@0#, a close, or @4# and not more than "
        accepted += "that" if waits else "the first two records"
        came = session.peer.drain(server.settle_s)
        if not (b"@0#".startswith(came) or (ALLOWED + legal).startswith(came)):
            situation = f"within {server.settle_s:g} s after the identification and {acks} acks in one segment"
            raise session.peer.failure(situation, came=counted(came), accepted=accepted)


@pytest.mark.fota_requirement("FOTA-ACK-surplus-ends")
@pytest.mark.parametrize("acks", SURPLUS)
@pytest.mark.parametrize("place", PLACES)
def test_surplus_acks_end_the_session(server: ServerBench, place: str, acks: str) -> None:
    """More acks at once than there may be frames out end the session: no further frame, and a close."""
    with server.session(hurried=True) as session:
        reach(session, place)
        expect_surplus_ends(session, SURPLUS[acks] + spare(session), place)


@pytest.mark.fota_requirement("FOTA-ACK-surplus-ends")
def test_surplus_acks_of_either_sort_of_device_end_the_session(server: ServerBench, acks_permission: bool) -> None:
    """A device that does not ack `@4#` may send one more ack, once, and not two."""
    with server.session(acks_permission=acks_permission, hurried=True) as session:
        reach(session, "first record")
        if spare(session):
            with step("the acks of the record and, perhaps, of @4#"):
                session.ack(2 * ACK)
                session.take_record()
        expect_surplus_ends(session, 2, f"record {len(session.received)}")


# --- phases -----------------------------------------------------------------------------------------------------------


def reach(session: PlayedDevice, place: str) -> None:
    """Go on until a frame came, which is not acked yet."""
    if place == PERMISSION:
        session.identify()
        session.expect_allowed()
        return
    session.begin()
    if place == END_FRAME:
        session.take_rest()
        session.expect_any_end_frame()
        return
    session.take((RECORDS[place] or len(session.firmware.records)) - 1)
    session.take_record()


def spare(session: PlayedDevice) -> int:
    """How many more acks a server must bear that cannot tell whether `@4#` was acked."""
    waits = session.target.handshake is not Handshake.IMMEDIATE
    return 0 if waits and session.acks_permission else 1


def unasked(session: PlayedDevice, place: str) -> int:
    """How many frames are on the way behind one that is not acked: a server may not wait for the ack of `@4#`."""
    return int(place == PERMISSION and session.target.handshake is Handshake.IMMEDIATE)


def bytes_of(wrong: str, session: PlayedDevice) -> bytes:
    """What is sent in the place of an ack."""
    if wrong not in WRONG:
        return b"\xff" * FLOOD
    raw = WRONG[wrong]
    return identification(session.device.mcuid) if raw == ANOTHER_ID else raw


def frames(session: PlayedDevice, behind: int, count: int) -> bytes:
    """The next frames behind so many records, as many as there are."""
    everything = [*session.firmware.records, end(session.device.version.upper())]
    return b"".join(everything[behind : behind + count])


def counted(data: bytes) -> str:
    """Records and end frames, with their number in front."""
    return f"{data.count(b'S') + data.count(b'##')} frames, {show(data)}"


def play_with_acks(session: PlayedDevice, pieces: tuple[bytes, ...] | list[bytes]) -> None:
    """A whole update with acks of some sort; the first of them in several segments, the others in one."""
    shown = ", then ".join(show(piece) for piece in pieces)
    session.identify()
    session.expect_allowed()
    with step(f"the device acks by {shown}"):
        if session.acks_permission:
            session.peer.send_pieces(pieces, SEGMENT_PAUSE, f"acking {show(ALLOWED)} by {shown}")
        for number in range(1, len(session.firmware.records) + 1):
            session.take_record()
            paced = pieces if number <= PACED else [b"".join(pieces)]
            session.peer.send_pieces(paced, SEGMENT_PAUSE, f"acking record {number} by {shown}")
        session.expect_any_end_frame()
        session.peer.send(b"".join(pieces), f"acking the end frame by {shown}")


def expect_end(session: PlayedDevice, situation: str, on_the_way: int) -> None:
    """Demand a close before the deadline for acks, which is none of this; so many frames may have been on the way."""
    deadlines = session.target.deadlines
    within_s = min(session.target.timeouts.close, EARLY * min(deadlines.ack, deadlines.end_ack))
    legal = frames(session, len(session.received), on_the_way)
    accepted = f"no further frame, and a close within {within_s:g} s"
    if on_the_way:
        accepted = f"not more than {show(legal)}, and a close within {within_s:g} s"
    with step("the server ends the session"):
        came = session.peer.drain(within_s)
        if not legal.startswith(came) or not session.peer.ended:
            shown = show(came) if came else "nothing"
            raise session.peer.failure(
                situation, came=f"{shown}, {session.peer.ended or 'still open'}", accepted=accepted
            )


def expect_few_frames(
    server: ServerBench, session: PlayedDevice, bundles: list[bytes], legal: bytes, place: str
) -> None:
    """Send acks in bundles, each at once; demand no more than some frames in all."""
    came = b""
    for acks in bundles:
        with step(f"{len(acks)} acks at once"):
            session.peer.offer(acks)
            came += session.peer.drain(server.settle_s)
    if not legal.startswith(came):
        counts = ", then ".join(str(len(acks)) for acks in bundles)
        raise session.peer.failure(
            f"within {server.settle_s:g} s after {counts} acks at once {place}",
            came=counted(came),
            accepted=f"not more than {counted(legal)}, or a close" if legal else "nothing, or a close",
        )
    if not session.peer.ended:
        session.leave()


def expect_surplus_ends(session: PlayedDevice, acks: int, place: str) -> None:
    """Send so many acks at once in the place of one; demand the end of the session."""
    with step(f"{acks} acks at once in the place of one"):
        session.peer.send(acks * ACK, f"sending {acks} acks at once behind the {place}")
    expect_end(session, f"after {acks} acks at once behind the {place}", unasked(session, place))
