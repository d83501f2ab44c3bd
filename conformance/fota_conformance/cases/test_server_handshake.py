"""Handshake: whether the server waits for the ack of `@4#`, and what it does about devices of either sort."""

import time
from typing import Final

import pytest

from fota_conformance.errors import CouldNotTest
from fota_conformance.exchange import PlayedDevice
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.wire import ACK, ALLOWED, Frame, Kind, read_transfer, show

SESSIONS: Final = 3
"""Sessions of one device: what a server remembers of it may change how it is answered."""
TRIES: Final = 8
"""Sessions that are played at most until so many tell."""
PROMPT: Final = 0.2
"""Seconds from an identification to its answer beyond which two segments may have met in the kit's own buffer."""

pytestmark = pytest.mark.fota_devices("made-1")


@pytest.mark.fota_requirement("FOTA-HS-wait")
@pytest.mark.parametrize("line_end", [b"", b"\r\n"], ids=["silence", "line end"])
def test_record_waits_for_the_ack_of_permission(server: ServerBench, line_end: bytes) -> None:
    """A server that waits for the ack of `@4#` sends no record before it, and one behind it."""
    with server.session(hurried=True) as session:
        session.identify()
        session.expect_allowed()
        situation = f"after {show(ALLOWED)}, before the device acked it"
        if line_end:
            situation += f", and {show(line_end)} from the device"
            session.peer.send(line_end, "ending the line of the identification, late")
        with step("the server waits"):
            session.peer.stay_quiet(server.settle_s, situation, "nothing yet: this server declares that it waits")
        session.ack_permission()
        session.take_record()
        session.leave()


@pytest.mark.fota_requirement("FOTA-HS-apart")
@pytest.mark.fota_waits
def test_permission_comes_alone(server: ServerBench, acks_permission: bool) -> None:
    """A device that reads once finds `@4#` and nothing behind it, whatever the server knows about it by then."""
    told = 0
    for number in range(1, TRIES + 1):
        with server.session(acks_permission=acks_permission, hurried=True) as session:
            began = time.monotonic()
            session.identify()
            session.expect_allowed()
            prompt = time.monotonic() - began < PROMPT
            if prompt or not session.peer.pending:
                session.peer.expect_nothing_pending(
                    f"in the segment of {show(ALLOWED)}, behind it, in session {number} of this device",
                    f"nothing: {show(ALLOWED)} alone, and the first record in a segment of its own",
                )
                told += 1
            session.ack_permission()
            session.take_rest()
            session.finish()
        if told == SESSIONS:
            return
    raise CouldNotTest(f"{TRIES - told} of {TRIES} times {show(ALLOWED)} was read too late to tell what came with it")


@pytest.mark.fota_requirement("FOTA-HS-immediate")
@pytest.mark.fota_waits
def test_device_that_does_not_ack_gets_its_records(server: ServerBench) -> None:
    """A device that never acks `@4#` gets its first record, and the others, in every session."""
    for number in (1, 2):
        with step(f"session {number}"), server.session(acks_permission=False, hurried=True) as session:
            session.identify()
            session.expect_allowed()
            session.take(2)
            session.take_record()
            session.leave()


@pytest.mark.fota_requirement("FOTA-HS-one-ahead")
@pytest.mark.fota_waits
@pytest.mark.parametrize("late", [False, True], ids=["acks @4# at once", "acks @4# behind the first record"])
def test_device_that_is_one_ack_ahead_gets_everything(server: ServerBench, late: bool) -> None:
    """A device that acks `@4#` too gets every record and the end frame, in order, and a close."""
    with server.session(acks_permission=True) as session:
        session.identify()
        session.expect_allowed()
        if late:
            with step("the device is slow to ack @4#"):
                first = next_frame(session, 0)
            acks, frames = 2 * ACK, [first.raw]
        else:
            acks, frames = ACK, []
        with step("the device acks each frame as it comes"):
            session.peer.send(acks, f"acking {show(ALLOWED)}")
            wanted = session.firmware.records
            while len(frames) < len(wanted) + 1:
                frame = next_frame(session, len(frames))
                frames.append(frame.raw)
                session.peer.send(ACK, f"acking frame {len(frames)}")
                if frame.kind is Kind.END:
                    break
        if frames[:-1] != list(wanted):
            raise session.peer.failure(
                "comparing the records with the file, for a device that acks @4# as well",
                came=f"{len(frames) - 1} records before {show(frames[-1])}",
                accepted=f"the {len(wanted)} records of the file, in order",
            )
        with step("the server closes the connection"):
            within_s = server.target.timeouts.close + server.target.deadlines.grace
            session.peer.expect_close(within_s, "after one ack for each frame, that of @4# included")


@pytest.mark.fota_requirement("FOTA-HS-unsure-lingers")
@pytest.mark.fota_waits
@pytest.mark.parametrize("one_more", [False, True], ids=["silence", "one more ack"])
def test_unsure_server_lingers(server: ServerBench, one_more: bool) -> None:
    """A server that may lack one ack keeps the connection for a grace, takes one more ack, and closes."""
    grace_s = server.target.deadlines.grace
    with server.session(acks_permission=False, hurried=True) as session:
        session.begin()
        session.take_rest()
        session.expect_end_frame()
        since = time.monotonic()
        session.peer.send(ACK, "acking the end frame")
        situation = f"after one ack for each frame but {show(ALLOWED)}"
        if not one_more:
            server.expect_close_at(session.peer, grace_s, since, situation)
            return
        with step("half a grace later, one more ack"):
            accepted = f"nothing yet: one more ack is legal for a grace of {grace_s:g} s"
            session.peer.stay_quiet(grace_s / 2, situation, accepted)
            session.peer.send(ACK, "sending the ack that may have been missing")
            session.peer.expect_close(server.target.timeouts.close, f"{situation}, and one more ack in the grace")


def next_frame(session: PlayedDevice, number: int) -> Frame:
    """The frame behind the `number`-th, which must be the file's next record or the end frame."""
    situation = f"waiting for frame {number + 1} behind {show(ALLOWED)}, as a device that acks {show(ALLOWED)} as well"
    accepted = "the next record, or behind the last one the end frame"
    return session.peer.read(read_transfer, session.target.timeouts.frame, situation, accepted)
