"""Verification: what our reports mean when they call a flash *verified*.

The image's bytes are equal in flash, the rest of every touched sector is FF, and the bootloader's region is unchanged.
"""

from collections.abc import Collection, Mapping

from fota_protocol.image import FirmwareImage

from .bootloader import bootloader_sectors
from .flash import Flash


def first_difference(
    flash: Flash, image: FirmwareImage, touched: Collection[int], bootloader: Mapping[int, bytes] | None = None
) -> str | None:
    """The first place where `flash` is not as it must be, in words; None when it is verified.

    `touched` are the indices of the sectors that the update erased, `bootloader` what its own sectors held before, by
    index (those of a new device where None).
    """
    part = flash.part
    size = part.sector_size
    if image.end > part.flash_end:
        return f"the image ends at {image.end:#010x}, the flash of {part.name} at {part.flash_end:#010x}"
    of_image = {index for s in image.segments for index in range(s.start // size, (s.end - 1) // size + 1)}
    for index in sorted(of_image.union(touched)):
        start = index * size
        found = flash.read(start, start + size)
        expected = image.read(start, start + size)
        if index * size < part.application_start:
            return f"{start:#010x} is in the bootloader, expected it untouched"
        if found != expected:
            offset = next(i for i in range(size) if found[i] != expected[i])
            return f"{start + offset:#010x} holds {found[offset]:#04x}, expected {expected[offset]:#04x}"
    for index, expected in (bootloader_sectors(part) if bootloader is None else bootloader).items():
        if flash.read(index * size, (index + 1) * size) != expected:
            return f"the bootloader's sector at {index * size:#010x} has changed"
    return None
