"""The mark of an update in progress: what the policy `mark` keeps in the last sector of the flash.

The sector is a list of pairs of program units, filled from its start. Before an update changes anything, the first unit
of the next pair is programmed with zeroes; when the image is whole, the second. The last pair that is not blank tells:
unless its second unit is all zeroes, an update is in progress. A unit that a power cut tore, or one that no erase left
blank, therefore counts as in progress, and the device waits in its bootloader. The sector is erased only when all pairs
are used and no update is in progress: at that moment the application is whole, and a blank sector says so.
"""

from fota_protocol.parts import Part

from .flash import ERASED, FlashMemory


def sector_start(part: Part) -> int:
    """Address of the sector with the mark."""
    return part.flash_end - part.sector_size


def in_progress(flash: FlashMemory) -> bool:
    """Whether an update began and did not end."""
    pair = _last_pair(flash)
    return pair is not None and bool(_done_unit(flash, pair).strip(b"\0"))


def begin(flash: FlashMemory) -> None:
    """Say that an update begins, unless one is in progress; raises `FlashError`."""
    pair = _last_pair(flash)
    part = flash.part
    size = 2 * part.program_unit
    if pair is None:
        pair = sector_start(part)
    elif in_progress(flash):
        return
    elif (pair := pair + size) >= part.flash_end:
        pair = sector_start(part)
        flash.erase_sector(pair)
    flash.program(pair, bytes(part.program_unit))


def end(flash: FlashMemory) -> None:
    """Say that the update has ended well; raises `FlashError`.

    A second unit that was torn cannot be programmed again: then the next pair says it, or a blank sector where there is
    none. The application is whole at this moment, so each step on the way there is a safe one.
    """
    pair = _last_pair(flash)
    if pair is None:
        return
    part = flash.part
    if _done_unit(flash, pair).strip(ERASED):
        pair += 2 * part.program_unit
        if pair >= part.flash_end:
            flash.erase_sector(sector_start(part))
            return
        flash.program(pair, bytes(part.program_unit))
    flash.program(pair + part.program_unit, bytes(part.program_unit))


def _last_pair(flash: FlashMemory) -> int | None:
    """Address of the last pair that is not blank."""
    part = flash.part
    start = sector_start(part)
    used = flash.read(start, part.flash_end).rstrip(ERASED)
    size = 2 * part.program_unit
    return start + (len(used) - 1) // size * size if used else None


def _done_unit(flash: FlashMemory, pair: int) -> bytes:
    unit = flash.part.program_unit
    return flash.read(pair + unit, pair + 2 * unit)
