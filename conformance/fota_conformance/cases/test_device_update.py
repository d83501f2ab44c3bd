"""One whole update of a device under test: acked on the wire, whole in flash, told in the outcome."""

from typing import Final

import pytest

import fota_fixtures
from fota_conformance.errors import Nonconformance
from fota_conformance.exchange import PlayUpdate
from fota_conformance.hosts import observation, observation_path, read_outcome
from fota_conformance.reading import read_dump, read_firmware
from fota_conformance.reporting import step
from fota_conformance.target import DeviceCommand

pytestmark = pytest.mark.fota_chapter("device", "A whole update", "MUST", "seed")

VERSION: Final = "16"
"""The version in the end frame: digits alone, since a client of revision B never ends on a letter."""
SHOWN_DIFFERENCES: Final = 8
"""Differing bytes of a flash dump that a message lists."""


def test_device_acks_every_frame_once(play_update: PlayUpdate) -> None:
    """A device that is served a whole image acks each record and the end frame, once each."""
    play_update(read_firmware(fota_fixtures.path("blink_1.s19")), VERSION)


def test_flash_holds_the_image(play_update: PlayUpdate, target: DeviceCommand) -> None:
    """After a whole update every byte of the image is in the device's flash."""
    template = observation(target, "flash")
    firmware = read_firmware(fota_fixtures.path("blink_2.s19"))
    values = play_update(firmware, VERSION)

    with step("the flash dump holds the image, as bincopy reads both"):
        held = read_dump(observation_path(target, template, values), target.observe.flash_address)
        differences = firmware.memory.differences(held)
        if differences:
            shown = ", ".join(
                f"{address:#010x}: " + ("nothing" if there is None else f"{there:02X}") + f" (image: {byte:02X})"
                for address, byte, there in differences[:SHOWN_DIFFERENCES]
            )
            raise Nonconformance(
                "reading the flash dump after a whole update",
                sent=f"{firmware.name}, {len(firmware.records)} records, {firmware.memory.size} bytes",
                came=f"{len(differences)} bytes that differ: {shown}" + ", …" * (len(differences) > SHOWN_DIFFERENCES),
                accepted=f"every byte of the image (CRC {firmware.memory.crc:08X}) at its address",
            )


def test_outcome_says_updated(play_update: PlayUpdate, target: DeviceCommand) -> None:
    """After a whole update the device says that it is updated, and with which image."""
    template = observation(target, "outcome")
    firmware = read_firmware(fota_fixtures.path("blink_1.s19"))
    values = play_update(firmware, VERSION)

    with step("the outcome names the update and the image"):
        outcome = read_outcome(observation_path(target, template, values))
        crc = f"{firmware.memory.crc:08X}"
        named = outcome.get("image_crc")
        if outcome.get("outcome") != "updated" or (named is not None and str(named).upper() != crc):
            raise Nonconformance(
                "reading the outcome after a whole update",
                sent=f"{firmware.name}, {len(firmware.records)} records",
                came=str(outcome),
                accepted=f"outcome 'updated', and image_crc '{crc}' if it is told",
            )
