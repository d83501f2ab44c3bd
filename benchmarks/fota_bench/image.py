"""The firmware images that are measured with: made from seeded bytes, so that every run has the same."""

import random

from fota_protocol.image import FirmwareImage
from fota_protocol.integrity import SEAL_OFFSET, SEAL_SIZE
from fota_protocol.parts import Part
from fota_protocol.srecord import SRecord


def records_of(content: bytes, base: int, record_bytes: int) -> list[SRecord]:
    """`content` from `base` on, as S2 records of `record_bytes` data bytes."""
    return [
        SRecord(2, base + start, content[start : start + record_bytes])
        for start in range(0, len(content), record_bytes)
    ]


def image_of(records: int, record_bytes: int, target: Part) -> FirmwareImage:
    """A sealed image of so many S2 records that a device checks and would start."""
    base = target.application_start
    content = bytearray(random.Random(records).randbytes(records * record_bytes))
    content[0:4] = target.ram_end.to_bytes(4, "little")
    content[4:8] = (base + 0x401).to_bytes(4, "little")
    content[SEAL_OFFSET : SEAL_OFFSET + SEAL_SIZE] = b"\xff" * SEAL_SIZE
    return FirmwareImage.from_records(records_of(bytes(content), base, record_bytes)).seal(base)
