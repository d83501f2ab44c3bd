"""Small images whose every cut can be played one by one."""

import struct
from typing import Final

from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS, Part
from fota_protocol.srecord import SRecord
from fota_simulator.boot import BootloaderSettings, BootPolicy, ProgrammingOrder
from fota_simulator.powercut.scenario import Scenario

LONGWORDS: Final = PARTS["MK60DN512"]
PHRASES: Final = PARTS["MK60FN1M0"]

SIZE: Final = 0x400
"""The least that has room for a seal."""


def image(number: int, part: Part = LONGWORDS, size: int = SIZE, *, descending: bool = False) -> FirmwareImage:
    """A sealed application, another one for each number; `size` bytes of which no unit is blank."""
    start = part.application_start
    vectors = struct.pack("<II", part.ram_end - 0x100 * number, start + 0x3D1)
    data = bytearray((vectors + bytes([number, 0x47, 0x70, 0xE7]) * (size // 4))[:size])
    data[0x3C0:0x3D0] = b"\xff" * 16
    records = [SRecord(2, start + i, bytes(data[i : i + 32])) for i in range(0, size, 32)]
    sealed = FirmwareImage.from_records(records).seal(start)
    return FirmwareImage.from_records(reversed(sealed.records)) if descending else sealed


def scenario(
    policy: BootPolicy = BootPolicy.SEALED,
    order: ProgrammingOrder = ProgrammingOrder.VECTORS_LAST,
    part: Part = LONGWORDS,
    *,
    seed: int = 7,
    descending: bool = False,
) -> Scenario:
    """An update from the first image to the second."""
    new = image(2, part, descending=descending)
    return Scenario(part, BootloaderSettings(policy, order), image(1, part), new, seed)
