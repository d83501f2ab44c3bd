"""The update device over a UART, its server played by hand: acks, line ends, pauses, and how it is left."""

from typing import Final

import pytest

import fota_fixtures
from fota_protocol.device import DeviceTimings, Outcome, Result
from fota_protocol.formats import load
from fota_protocol.identity import Identification
from fota_protocol.parts import part
from fota_simulator.board.firmware import Leave
from fota_simulator.board.fota_device import LONGEST_PAUSE, FotaDevice, Newline
from fota_simulator.boot import BootloaderSettings, BootPolicy
from fota_simulator.mcu import McuShare, VirtualMcu

IMAGE: Final = load(fota_fixtures.path("blink_1.s19").read_bytes())
MCUID: Final = "0001000000000000000000000"
IDENTIFICATION: Final = b"@%s#" % MCUID.encode()


def device(
    newline: Newline = Newline.NONE,
    *,
    boot_text: bytes = b"",
    policy: BootPolicy = BootPolicy.SEALED,
    outcomes: list[Outcome] | None = None,
) -> FotaDevice:
    """A device that was reset at 0 s; it first pauses for 5 s, and waits 20 s for its server."""
    mcu = VirtualMcu(
        Identification(MCUID),
        part("MK60DN512"),
        McuShare.new(),
        settings=BootloaderSettings(policy),
        timings=DeviceTimings(verdict=20.0, frame=20.0),
    )
    return FotaDevice(
        mcu, boot_text=boot_text, newline=newline, retry_s=5.0, on_outcome=([] if outcomes is None else outcomes).append
    )


def updated(found: FotaDevice) -> list[bytes]:
    """Update it; returns what it sent for each frame."""
    frames = [b"@4#", *(record.encode() for record in IMAGE.records), b"@16##"]
    return [found.receive(frame, 1.0) for frame in frames]


@pytest.mark.parametrize(("newline", "behind"), [(Newline.NONE, b""), (Newline.LF, b"\n"), (Newline.CRLF, b"\r\n")])
def test_device_sends_its_line_end_behind_every_frame(newline: Newline, behind: bytes) -> None:
    """Identification and acks; the update itself is as ever."""
    found = device(newline)

    said = found.start(0.0)
    acks = updated(found)

    assert IDENTIFICATION + behind == said
    assert [b"@" + behind] * (len(IMAGE.records) + 2) == acks
    assert (Leave.APPLICATION,) == found.events


def test_boot_text_comes_before_the_identification() -> None:
    """Once a reset."""
    found = device(boot_text=b"boot 1.0\r\n")

    assert b"boot 1.0\r\n" + IDENTIFICATION == found.start(0.0)


def test_refused_device_asks_again_after_a_pause_that_doubles() -> None:
    """Up to a limit, for ever; an update of its own would begin anew."""
    outcomes: list[Outcome] = []
    found = device(outcomes=outcomes)
    found.start(0.0)
    now, pauses = 1.0, []
    for _ in range(9):
        found.receive(b"@0#", now)
        deadline = found.deadline
        assert deadline is not None
        pauses.append(deadline - now)
        now = deadline
        assert IDENTIFICATION == found.timeout(now)

    assert [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE] == pauses
    assert {Result.REFUSED} == {outcome.result for outcome in outcomes}


def test_silent_server_is_asked_again() -> None:
    """A line has no end: silence is all that there is to see."""
    found = device()
    found.start(0.0)

    said = [found.timeout(20.0), found.timeout(24.9), found.timeout(25.0)]

    assert [b"", b"", IDENTIFICATION] == said


def test_text_of_a_relay_ends_the_session() -> None:
    """What is put in the place of a close is no frame; records that follow it are not heard."""
    outcomes: list[Outcome] = []
    found = device(outcomes=outcomes)
    found.start(0.0)
    found.receive(b"@4#", 1.0)

    heard = found.receive(b"\r\nCLOSED\r\n", 2.0) + found.receive(IMAGE.records[0].encode(), 2.1)

    assert b"" == heard
    assert [Result.FAILED] == [outcome.result for outcome in outcomes]
    assert 7.0 == found.deadline


def test_image_that_would_not_start_leads_back_to_the_bootloader() -> None:
    """The policy acks whatever comes, and its own test at a reset says no: it resets, and asks again."""
    outcomes: list[Outcome] = []
    found = device(policy=BootPolicy.HOOK, outcomes=outcomes)
    found.start(0.0)
    found.receive(b"@4#", 1.0)
    found.receive(IMAGE.records[1].encode(), 1.0)

    found.receive(b"@16##", 1.0)

    assert (Leave.RESET,) == found.events
    assert [Result.UPDATED] == [outcome.result for outcome in outcomes]
