"""Deadlines: a server gives up on a device that is silent, or says nothing that counts, and not before.

To a server a device that lost its link is a silent one, so these are the cases of half-open connections, too. A moment
to count from is taken before the kit sends what the server answers: a server's clock never starts earlier.
"""

import time
from typing import Final

import pytest

from fota_conformance.exchange import PlayedDevice
from fota_conformance.pace import EARLY, SLACK
from fota_conformance.peer import Peer
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.target import Handshake
from fota_conformance.wire import ACK, identification, show

LATE: Final = 2 / 3
"""The part of a deadline after which a late device answers."""
DRIPS: Final = 20
"""Pieces that a dripping device sends within one deadline."""

pytestmark = [pytest.mark.fota_waits, pytest.mark.fota_devices("made-1")]


@pytest.mark.fota_requirement("FOTA-TIME-silent")
def test_silent_connection_is_closed(server: ServerBench) -> None:
    """A connection on which nothing comes is closed at the identification deadline."""
    since = time.monotonic()
    with server.connect() as peer, step("the device says nothing"):
        server.expect_close_at(peer, server.target.deadlines.identification, since, "connected, and nothing sent")


@pytest.mark.fota_requirement("FOTA-TIME-dripping-id")
@pytest.mark.parametrize("dripping", [True, False], ids=["byte by byte", "half of it, then silence"])
def test_identification_without_end_is_cut_off(server: ServerBench, dripping: bool) -> None:
    """An identification that does not end is cut off at the deadline from the connection."""
    deadline_s = server.target.deadlines.identification
    whole = identification(server.devices[0].mcuid)
    since = time.monotonic()
    with server.connect() as peer:
        if dripping:
            with step("digits without an end"):
                peer.send(b"@", "beginning an identification")
                drip(server, peer, b"1", deadline_s, since, "dripping digits into an identification")
        else:
            with step("half an identification, half-way to the deadline"):
                peer.stay_quiet(deadline_s / 2, "connected, and nothing sent", "nothing yet")
                peer.send(whole[: len(whole) // 2], "sending half an identification")
                server.expect_close_at(peer, deadline_s, since, "connected, and half an identification sent")


@pytest.mark.fota_requirement("FOTA-TIME-permission-ack")
def test_missing_ack_of_permission_ends_the_session(server: ServerBench) -> None:
    """A device that does not ack `@4#` within the deadline is closed, and gets no record."""
    with server.session() as session:
        since = time.monotonic()
        session.identify()
        session.expect_allowed()
        with step("the device does not ack"):
            server.expect_close_at(session.peer, server.target.deadlines.ack, since, "after @4#, which is not acked")


@pytest.mark.fota_requirement("FOTA-TIME-record-ack")
@pytest.mark.parametrize("which", ["first record", "fourth record", "last record"])
def test_missing_ack_of_a_record_ends_the_session(server: ServerBench, which: str) -> None:
    """A device that does not ack a record within the deadline is closed, and gets no further record."""
    with server.session() as session:
        since = reach_record(session, {"first record": 1, "fourth record": 4}.get(which))
        with step("the device does not ack"):
            server.expect_close_at(
                session.peer, server.target.deadlines.ack, since, f"after the {which}, which is not acked"
            )


@pytest.mark.fota_requirement("FOTA-TIME-end-ack")
def test_missing_ack_of_the_end_frame_ends_the_session(server: ServerBench) -> None:
    """A device that does not ack the end frame within its deadline is closed."""
    with server.session() as session:
        since = reach_end(session)
        with step("the device does not ack"):
            server.expect_close_at(
                session.peer, server.target.deadlines.end_ack, since, "after the end frame, which is not acked"
            )


@pytest.mark.fota_requirement("FOTA-TIME-dripping-line-ends")
@pytest.mark.parametrize("place", ["first ack", "later ack", "ack of the end frame"])
def test_line_ends_buy_no_time(server: ServerBench, place: str) -> None:
    """A device that sends line ends, but no ack, is closed at the deadline all the same."""
    deadline_s = server.target.deadlines.end_ack if "end" in place else server.target.deadlines.ack
    with server.session() as session:
        since = reach_ack(session, place)
        with step("line ends, and no ack"):
            drip(server, session.peer, b"\r\n", deadline_s, since, f"dripping line ends in the place of the {place}")


@pytest.mark.fota_requirement("FOTA-TIME-patient")
def test_late_identification_is_served(server: ServerBench) -> None:
    """A device that names itself at two thirds of the deadline is served to the end."""
    with server.session() as session:
        wait_late(session.peer, server.target.deadlines.identification, "connected, and nothing sent")
        session.update()


@pytest.mark.fota_requirement("FOTA-TIME-patient")
@pytest.mark.parametrize("place", ["first ack", "later ack", "ack of the end frame"])
def test_late_ack_is_taken(server: ServerBench, place: str) -> None:
    """A device that acks at two thirds of the deadline is served to the end."""
    deadline_s = server.target.deadlines.end_ack if "end" in place else server.target.deadlines.ack
    with server.session() as session:
        reach_ack(session, place)
        wait_late(session.peer, deadline_s, f"before the {place}")
        if "end" in place:
            session.ack_end_frame()
        else:
            session.peer.send(ACK, f"sending the {place} late")
            session.take_rest()
            session.finish()


def reach_record(session: PlayedDevice, number: int | None) -> float:
    """Take records up to the `number`-th (None: the last), which is not acked; a moment just before it was sent."""
    number = number or len(session.firmware.records)
    since = time.monotonic()
    session.begin()
    if number > 1:
        session.take(number - 2)
        session.take_record()
        since = time.monotonic()
        session.ack()
    session.take_record()
    return since


def reach_end(session: PlayedDevice) -> float:
    """Take everything, but do not ack the end frame; a moment just before it was sent."""
    since = reach_record(session, None)
    session.ack()
    session.expect_end_frame()
    return since


def reach_ack(session: PlayedDevice, place: str) -> float:
    """Go on to the place of an ack; a moment just before the frame was sent that wants it."""
    if "end" in place:
        return reach_end(session)
    if place != "first ack":
        return reach_record(session, 4)
    if session.target.handshake is not Handshake.WAIT:
        return reach_record(session, 1)
    since = time.monotonic()
    session.identify()
    session.expect_allowed()
    return since


def drip(server: ServerBench, peer: Peer, piece: bytes, deadline_s: float, since: float, situation: str) -> None:
    """Send a piece time and again; demand a close at the deadline, counted from `since`, and nothing else."""
    accepted = f"a close {deadline_s:g} s after that, as [deadlines] of the target file promises, and not a byte more"
    until = since + deadline_s + SLACK * server.target.scale
    while not peer.ended:
        if time.monotonic() >= until:
            over_s = time.monotonic() - since
            raise peer.failure(situation, came=f"nothing for {over_s:.1f} s, still open", accepted=accepted)
        peer.send(piece, situation)
        if came := peer.drain(deadline_s / DRIPS):
            raise peer.failure(situation, came=show(came), accepted=accepted)
    after_s = time.monotonic() - since
    if after_s < EARLY * deadline_s:
        raise peer.failure(situation, came=f"{peer.ended} after {after_s:.1f} s", accepted=accepted)


def wait_late(peer: Peer, deadline_s: float, situation: str) -> None:
    """Wait for two thirds of a deadline; demand that the server waits, too."""
    with step(f"the device is silent for two thirds of {deadline_s:g} s"):
        accepted = f"nothing: [deadlines] of the target file promises to wait {deadline_s:g} s"
        peer.stay_quiet(LATE * deadline_s, situation, accepted)
