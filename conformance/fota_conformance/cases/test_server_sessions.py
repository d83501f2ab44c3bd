"""Sessions side by side and in a row: devices that are silent, that vanish, that come back before anybody noticed."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest

from fota_conformance.errors import Nonconformance, in_situation
from fota_conformance.exchange import PlayedDevice
from fota_conformance.hosts import Device
from fota_conformance.pace import SLACK
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.target import Handshake
from fota_conformance.wire import ACK, identification, read_answer, read_transfer

State = Callable[[PlayedDevice], object]
"""Plays a new session up to a state."""
MANY: Final = 50
"""Devices that are updated at once."""
STORM: Final = 30
"""Connections of a device that does not stay."""
TRIES_S: Final = 60.0
"""Seconds (before `scale`) in which each of many devices gets its turn at a server that bears only a few."""
LEAK_DEVICES: Final = 8
LEAK_ROUNDS: Final = 5
"""Sessions of each of the devices between two counts of descriptors: 40 in all."""
SPARE: Final = 8
"""Descriptors that a server may have more of after 40 sessions: a log, a database, a pool that grew."""
POLL: Final = 0.05
"""Seconds between two counts of descriptors."""


def in_identification(session: PlayedDevice) -> None:
    """Send half an identification."""
    whole = identification(session.device.mcuid)
    session.peer.send(whole[: len(whole) // 2], "sending half an identification")


def behind_permission(session: PlayedDevice) -> None:
    """Be allowed, and say nothing."""
    session.identify()
    session.expect_allowed()


def behind_records(count: int) -> State:
    """Take some records; the last is not acked."""

    def play(session: PlayedDevice) -> None:
        session.begin()
        session.take(count - 1)
        session.take_record()

    return play


def behind_ack(session: PlayedDevice) -> None:
    """Take two records and ack both; what comes then is not looked at."""
    session.begin()
    session.take(2)


def behind_end_frame(session: PlayedDevice) -> None:
    """Take everything, but do not ack the end frame."""
    session.begin()
    session.take_rest()
    session.expect_end_frame()


def behind_last_ack(session: PlayedDevice) -> None:
    """Take and ack everything, and do not wait for the close."""
    behind_end_frame(session)
    session.peer.send(ACK, "acking the end frame")


def behind_first_frame(session: PlayedDevice) -> None:
    """Do not ack the first frame that the server waits for the ack of."""
    if session.target.handshake is Handshake.WAIT:
        behind_permission(session)
    else:
        behind_records(1)(session)


LATER_RECORD: Final = behind_records(4)
STATES: Final[dict[str, State]] = {
    "after the connection": lambda session: None,
    "in mid-identification": in_identification,
    "behind its identification": PlayedDevice.identify,
    "behind @4#": behind_permission,
    "behind the first frame": behind_first_frame,
    "behind the first record": behind_records(1),
    "behind an ack": behind_ack,
    "behind a later record": LATER_RECORD,
    "behind the end frame": behind_end_frame,
    "behind the last ack": behind_last_ack,
}
VANISHING: Final = tuple(state for state in STATES if state != "behind the first frame")
"""States in which a connection may end."""
SILENT: Final = (
    "after the connection",
    "in mid-identification",
    "behind @4#",
    "behind a later record",
    "behind the end frame",
)
"""States in which a device may fall silent."""


@pytest.mark.fota_requirement("FOTA-SESSION-not-held")
@pytest.mark.fota_devices("made-1", "made-2")
@pytest.mark.parametrize("state", SILENT)
def test_silent_client_holds_nobody(server: ServerBench, state: str) -> None:
    """While one client is silent, another device is updated."""
    with server.session(hurried=True) as silent:
        with step(f"a client falls silent {state}"):
            STATES[state](silent)
        server.expect_update(server.devices[1], f"while another client is silent {state}")


@pytest.mark.fota_requirement("FOTA-SESSION-not-held")
@pytest.mark.fota_devices("made-1")
def test_many_silent_clients_hold_nobody(server: ServerBench) -> None:
    """While some clients are connected and say nothing, a device is updated."""
    count = min(20, server.target.concurrency - 1)
    peers = [server.connect() for _ in range(count)]
    try:
        server.expect_update(None, f"while {count} clients are connected and say nothing")
    finally:
        for peer in peers:
            peer.close()


@pytest.mark.fota_requirement("FOTA-SESSION-many")
@pytest.mark.fota_devices(*(f"made-{number}" for number in range(MANY)))
def test_fifty_devices_at_once_get_their_own_images(server: ServerBench) -> None:
    """Fifty devices at once, each with an image of its own, each get their own."""
    within_s = TRIES_S * server.target.scale
    with step(f"{MANY} devices are updated at once; one that is closed without a frame tries again"):
        server.side_by_side(lambda device: server.update_in_the_end(device, within_s), server.devices)


def wrong_ack(session: PlayedDevice) -> None:
    """Send no ack in the place of an ack, and wait for the end of that."""
    LATER_RECORD(session)
    session.ack(b"X")
    session.peer.drain(session.target.timeouts.close)


def reset_behind_record(session: PlayedDevice) -> None:
    """Reset the connection in mid-update."""
    LATER_RECORD(session)
    session.peer.reset()


def close_behind_record(session: PlayedDevice) -> None:
    """Close the connection in mid-update."""
    LATER_RECORD(session)
    session.peer.close()


def stop_sending_behind_record(session: PlayedDevice) -> None:
    """Shut down the sending half in mid-update."""
    LATER_RECORD(session)
    session.peer.stop_sending()


def not_text(session: PlayedDevice) -> None:
    """Send an identification that is no text."""
    session.peer.send(b"@\xff\xfe\x00#", "sending an identification that is no text")
    session.peer.drain(session.target.timeouts.close)


FAULTS: Final[dict[str, State]] = {
    "a wrong ack": wrong_ack,
    "a reset": reset_behind_record,
    "a close": close_behind_record,
    "a half-close": stop_sending_behind_record,
    "an identification that is no text": not_text,
}
"""What another device does while a good one is in mid-update."""


@pytest.mark.fota_requirement("FOTA-SESSION-isolated")
@pytest.mark.fota_devices("made-1", "made-2")
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_one_session_leave_others_alone(server: ServerBench, fault: str) -> None:
    """A session that is under way goes on and ends well, whatever another device does wrong meanwhile."""
    with server.session(hurried=True) as good:
        good.begin()
        good.take(2)
        with step(f"another device: {fault}"), server.session(server.devices[1], hurried=True) as other:
            FAULTS[fault](other)
        with in_situation(f"after {fault} in another session"):
            good.take_rest()
            good.finish()


@pytest.mark.fota_requirement("FOTA-SESSION-one-live")
@pytest.mark.fota_devices("made-1")
@pytest.mark.parametrize(
    "state", ["behind its identification", "behind @4#", "behind the first record", "behind a later record"]
)
def test_a_device_never_has_two_live_sessions(server: ServerBench, state: str) -> None:
    """Of two sessions of one device at most one goes on; which one does not matter."""
    with server.session(hurried=True) as older, server.session(hurried=True) as newer:
        STATES[state](older)
        with step("the device names itself on a second connection"):
            second_begins = gets_first_record(newer)
        with step("at most one of the two goes on"):
            if second_begins and goes_on(older, server.settle_s) and goes_on(newer, server.settle_s):
                raise newer.peer.failure(
                    f"in two sessions of device {newer.device.mcuid}; the first was {state} when the second began",
                    came="a record for each ack, in both",
                    accepted="that one of them is closed, or gets nothing",
                )


def gets_first_record(session: PlayedDevice) -> bool:
    """Whether a session that has sent nothing yet gets so far as its first record."""
    timeouts = session.target.timeouts
    situation, accepted = "in the second session of a device", "an update, a refusal, a close, or nothing"
    session.identify()
    if session.peer.try_read(read_answer, timeouts.answer, situation, accepted) is None:
        return False
    if session.acks_permission:
        with contextlib.suppress(Nonconformance):
            session.peer.send(ACK, situation)
    return session.peer.try_read(read_transfer, timeouts.frame, situation, accepted) is not None


def goes_on(session: PlayedDevice, settle_s: float) -> bool:
    """Whether one more ack brings one more frame; what was under way before is not looked at."""
    session.peer.drain(settle_s)
    if session.peer.ended:
        return False
    with contextlib.suppress(Nonconformance):
        session.peer.send(ACK, "in one of two sessions of a device")
    return bool(session.peer.drain(settle_s))


@pytest.mark.fota_requirement("FOTA-SESSION-newest-wins")
@pytest.mark.fota_devices("made-1")
@pytest.mark.parametrize("state", ["behind the first frame", "behind a later record", "behind the end frame"])
def test_the_newest_session_wins(server: ServerBench, state: str) -> None:
    """A device that is back on a new connection is updated there, and its older session is closed."""
    with server.session(hurried=True) as older, server.session(hurried=True) as newer:
        STATES[state](older)
        with in_situation(f"while an older session of the device is open {state}"):
            newer.begin()
        with step("the older session is closed"):
            older.expect_cut_off("in a session whose device has named itself on a newer connection")
        newer.take_rest()
        newer.finish()


@pytest.mark.fota_requirement("FOTA-SESSION-newest-wins")
@pytest.mark.fota_devices("made-1")
def test_the_newest_of_four_sessions_wins(server: ServerBench) -> None:
    """Every session of a device is closed when the next one begins; the last one is updated."""
    with contextlib.ExitStack() as stack:
        older = None
        for _ in range(min(4, server.target.concurrency)):
            newest = stack.enter_context(server.session(hurried=True))
            with in_situation("while an older session of the device is open") if older else contextlib.nullcontext():
                LATER_RECORD(newest)
            if older is not None:
                older.expect_cut_off("in a session whose device has named itself on a newer connection")
            older = newest
        newest.ack()
        newest.take_rest()
        newest.finish()


@pytest.mark.fota_requirement("FOTA-SESSION-closed-survived")
@pytest.mark.fota_devices("made-1", "made-2")
@pytest.mark.parametrize("state", VANISHING)
def test_a_close_ends_that_session_alone(server: ServerBench, state: str) -> None:
    """A device that closes its connection does no harm, whatever the state."""
    with server.session(hurried=True) as session:
        STATES[state](session)
        with step(f"the device closes its connection {state}"):
            session.peer.close()
    server.expect_still_serving(f"a close by another device {state}", server.devices[1])


@pytest.mark.fota_requirement("FOTA-SESSION-reset-survived")
@pytest.mark.fota_devices("made-1", "made-2")
@pytest.mark.parametrize("state", VANISHING)
def test_a_reset_ends_that_session_alone(server: ServerBench, state: str) -> None:
    """A connection that is reset does no harm, whatever the state."""
    with server.session(hurried=True) as session:
        STATES[state](session)
        with step(f"the connection is reset {state}"):
            session.peer.reset()
    server.expect_still_serving(f"a reset by another device {state}", server.devices[1])


@pytest.mark.fota_requirement("FOTA-SESSION-no-frame-lost")
@pytest.mark.fota_devices("made-1")
@pytest.mark.parametrize("state", ["behind the first record", "behind an ack", "behind a later record"])
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_the_next_session_begins_with_the_first_record(server: ServerBench, is_reset: bool, state: str) -> None:
    """A device whose connection broke gets the whole image in its next session, from the first record on."""
    with server.session(hurried=True) as session:
        STATES[state](session)
        with step(f"the connection breaks {state}"):
            if is_reset:
                session.peer.reset()
            else:
                session.peer.close()
    server.expect_update(None, f"in the next session of a device whose connection broke {state}")


@pytest.mark.fota_requirement("FOTA-SESSION-half-closed")
@pytest.mark.fota_devices("made-1")
@pytest.mark.parametrize(
    "state", ["behind the first frame", "behind the first record", "behind a later record", "behind the end frame"]
)
def test_a_half_closed_session_ends(server: ServerBench, state: str) -> None:
    """A device that shuts down its sending half gets nothing more, and is closed."""
    target = server.target
    # No later than one that is silent.
    silent_s = max(target.deadlines.ack, target.deadlines.end_ack) + SLACK * target.scale
    with server.session(hurried=True) as session:
        STATES[state](session)
        session.peer.stop_sending()
        with step("the server closes, without another frame"):
            situation = f"after the device shut down its sending half {state}"
            session.peer.expect_close(max(target.timeouts.close, silent_s), situation)


@pytest.mark.fota_requirement("FOTA-SESSION-storm")
@pytest.mark.fota_devices("made-1")
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("is_answered", [False, True], ids=["unanswered", "answered"])
def test_a_device_that_comes_and_goes_is_updated_when_it_stays(
    server: ServerBench, is_answered: bool, is_reset: bool
) -> None:
    """A device that connects, names itself and vanishes thirty times in a row is updated when it stays."""
    timeouts = server.target.timeouts
    with step(f"the device comes and goes {STORM} times"):
        for _ in range(STORM):
            # A server may turn it away for a while.
            with contextlib.suppress(Nonconformance), server.session(hurried=True) as session:
                session.identify()
                if is_answered:
                    session.peer.try_read(read_answer, timeouts.answer, "coming and going", "any answer, or none")
                if is_reset:
                    session.peer.reset()
    vanished = f"after the device named itself and vanished {STORM} times"
    with step("the device stays"), in_situation(vanished):
        server.update_in_the_end(server.devices[0], timeouts.answer, hurried=True)


@pytest.mark.fota_requirement("FOTA-SESSION-no-leak")
@pytest.mark.fota_fresh
@pytest.mark.fota_devices(*(f"made-{number}" for number in range(LEAK_DEVICES)))
@pytest.mark.parametrize("how", ["updated", "cut in mid-update", "never begun"])
def test_sessions_leave_no_descriptor_open(server: ServerBench, how: str) -> None:
    """After 40 sessions, however they ended, the server has no more files and sockets open than before."""
    within_s = server.target.timeouts.close + server.target.deadlines.grace
    with step("a first session of each device: what a server opens once, it has open then"):
        server.side_by_side(partial(play_to_its_end, server, how, 0), server.devices)
    with step("count"):
        time.sleep(server.settle_s)
        before = server.host.open_files()
    with step(f"{LEAK_DEVICES * LEAK_ROUNDS} sessions"):
        for number in range(LEAK_ROUNDS):
            server.side_by_side(partial(play_to_its_end, server, how, number), server.devices)
    with step("count again"):
        until = time.monotonic() + within_s
        while (after := server.host.open_files()) > before + SPARE:
            if time.monotonic() >= until:
                raise Nonconformance(
                    f"counting what the server's processes have open after {LEAK_DEVICES * LEAK_ROUNDS} sessions",
                    sent=f"sessions that were {how}, all of them over for {within_s:g} s",
                    came=f"{after} descriptors, {before} before",
                    accepted=f"at most {before + SPARE}: a session leaves no open file or socket behind",
                )
            time.sleep(POLL)


def play_to_its_end(server: ServerBench, how: str, number: int, device: Device) -> None:
    """One session that ends as `how` says, in one of the ways of doing so."""
    with server.session(device, hurried=True) as session:
        if how == "updated":
            behind_last_ack(session)
            session.peer.drain(server.settle_s)
        elif how == "cut in mid-update":
            LATER_RECORD(session)
            if number % 2:
                session.peer.reset()
        elif number % 2:
            in_identification(session)
            session.peer.reset()
        else:
            session.peer.send(identification(server.stranger()), "naming a stranger")
            session.peer.drain(server.settle_s)
