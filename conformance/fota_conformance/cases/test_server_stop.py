"""Stopping: SIGTERM as service managers send it, and the end that no process can prepare for.

These cases end their server, so each has one of its own and takes it down before it is looked after.
"""

import contextlib
import time

import pytest

from fota_conformance.errors import CouldNotTest, Nonconformance
from fota_conformance.process import Child
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.wire import ACK, identification, show

pytestmark = [pytest.mark.fota_fresh, pytest.mark.fota_devices("made-1", "made-2")]


@pytest.mark.fota_requirement("FOTA-STOP-finishes")
@pytest.mark.parametrize("state", ["before a session", "behind a record", "behind the end frame"])
def test_a_stopping_server_lets_updates_end_well(server: ServerBench, state: str) -> None:
    """Told to stop, a server lets the update that is under way end well, then exits with status 0."""
    process = server.host.process
    situation = f"told to stop (SIGTERM) {state}"
    if state == "before a session":
        server.host.terminate()
    else:
        with server.session() as session:
            session.begin()
            if state == "behind a record":
                session.take(2)
                session.take_record()
            else:
                session.take_rest()
                session.expect_end_frame()
            server.host.terminate()
            with step("the session stays open"):
                session.peer.stay_quiet(server.settle_s, situation, "nothing: the update may end well")
            if state == "behind a record":
                session.ack()
                session.take_rest()
                session.expect_end_frame()
            session.ack_end_frame()
    expect_exit(server, process, situation)
    server.host.stop()


@pytest.mark.fota_requirement("FOTA-STOP-no-refusal")
@pytest.mark.parametrize("is_early", [False, True], ids=["connected behind SIGTERM", "connected before SIGTERM"])
def test_a_stopping_server_turns_new_devices_away_without_a_frame(server: ServerBench, is_early: bool) -> None:
    """A device that names itself while the server stops gets no frame, and so tries again."""
    newcomer = server.devices[1]
    situation = "from a server that was told to stop (SIGTERM) and still ends another update"
    accepted = "no connection, or a close without a frame"
    with contextlib.ExitStack() as stack:
        with server.session(hurried=True) as going_on:
            going_on.begin()
            going_on.take(2)
            going_on.take_record()
            peer = stack.enter_context(server.connect()) if is_early else None
            server.host.terminate()
            time.sleep(server.settle_s)
            with step("another device names itself"), contextlib.suppress(Nonconformance):
                peer = peer or stack.enter_context(server.connect())
                peer.send(identification(newcomer.mcuid), "naming itself to a server that stops")
            if peer is not None and (came := peer.drain(server.settle_s)):
                raise peer.failure(situation, came=show(came), accepted=accepted)
        with step("the other update is cut, so that nothing keeps the server"):
            if peer is not None:
                peer.expect_close(server.target.timeouts.close, situation, accepted)
    server.host.stop()


@pytest.mark.fota_requirement("FOTA-STOP-restart")
@pytest.mark.parametrize("state", ["behind @4#", "behind a record", "behind the last ack"])
def test_a_killed_server_starts_again_and_serves(server: ServerBench, state: str) -> None:
    """Killed in mid-update, a server starts again on the same port with the same folders, and updates the device."""
    with server.session(hurried=True) as session:
        session.identify()
        session.expect_allowed()
        if state != "behind @4#":
            session.ack_permission()
            if state == "behind a record":
                session.take(2)
                session.take_record()
            else:
                session.take_rest()
                session.expect_end_frame()
                session.peer.send(ACK, "acking the end frame")
        with step("the server is killed, and started again"):
            try:
                server.host.again()
            except CouldNotTest as error:
                raise session.peer.failure(
                    f"starting the server again, killed {state}", came=str(error), accepted="a server that is ready"
                ) from error
    server.expect_update(None, f"behind the restart of a server that was killed {state}")


def expect_exit(server: ServerBench, process: Child, situation: str) -> None:
    """Demand that the server's process ends by itself, with status 0."""
    within_s = server.target.timeouts.stop + server.target.deadlines.grace
    with step("the server exits with status 0"):
        status = process.wait(within_s)
        if status != 0:
            came = f"the process still runs after {within_s:g} s" if status is None else f"exit status {status}"
            raise Nonconformance(situation, sent="SIGTERM", came=came, accepted="exit status 0, once no update goes on")
