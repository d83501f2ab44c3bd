"""Look at a flash, compare two, and write one as another kind of file.

A flash is a device file of a virtual K60, or a dump of a real or virtual board: S-records, Intel HEX, or a raw .bin.

  fota flash show board.k60
  fota flash show dump.s19 --image app.s19 --svg map.svg
  fota flash diff before.k60 after.k60
  fota flash dump board.k60 flash.hex

Exit code 0; of show --image and of diff, 1 when there is a difference; 2 for files that cannot be read.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from fota_protocol.integrity import check_seal, check_vectors, image_crc32, read_seal
from fota_protocol.parts import DEFAULT_PART
from fota_simulator.boot import application_end, at_reset
from fota_simulator.flash import ERASED, Flash
from fota_simulator.flash.configuration import FIELD_SIZE, FIELD_START, FlashConfiguration

from .. import exit_codes
from ..device_options import PART_NAMES
from ..dumps import SUFFIXES, Dump, encode_dump, raw_address, read_dump
from ..errors import UsageError
from ..files import check_writable, read_image, write_file, write_json
from ..flash_map import SectorState, aligned, as_svg, as_text, picture_of

SHOWN_BYTES: Final = 64
"""Bytes of a range that differs, where nobody asks for all."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(
        name: str, what: str, function: object, files: Sequence[str], examples: Sequence[str]
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name,
            help=what,
            description="\n".join([f"{what[0].upper()}{what[1:]}.", "", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(action=function)
        for file in files:
            sub.add_argument(file.lower(), type=Path, metavar=file, help="a device file, or a dump")
        add = sub.add_argument
        add("--part", default=DEFAULT_PART, metavar="NAME", help=f"of a dump: {PART_NAMES} (default: {DEFAULT_PART})")
        add("--address", type=raw_address, metavar="N", help="where a raw dump begins (default: by its size)")
        return sub

    add = action(
        "show",
        "show a flash as a map of its sectors",
        _show,
        ["FLASH"],
        [
            "fota flash show board.k60",
            "fota flash show dump.s19 --image app.s19 --svg map.svg",
            "fota flash show dump.bin --part TWR-K60F120M --json -",
        ],
    ).add_argument
    add("--image", type=Path, metavar="FILE", help="firmware that should be in it: show where it differs")
    add("--svg", type=Path, metavar="FILE", help="write the map as a picture, too")
    add("--json", type=Path, metavar="FILE", help="write the same as JSON; - for standard output")
    add("--plain", action="store_true", help="no colours; a pipe gets none anyway")

    add = action(
        "diff",
        "show where two flashes differ",
        _diff,
        ["A", "B"],
        ["fota flash diff before.k60 after.k60", "fota flash diff board.k60 dump.hex --all"],
    ).add_argument
    add("--all", action="store_true", help=f"all bytes of each range, not only the first {SHOWN_BYTES}")
    add("--json", type=Path, metavar="FILE", help="write the ranges as JSON; - for standard output")

    add = action(
        "dump",
        "write a flash as S-records, Intel HEX or raw, by the name's ending",
        _dump,
        ["FLASH"],
        ["fota flash dump board.k60 flash.hex", "fota flash dump board.k60 whole.bin --whole"],
    ).add_argument
    add("output", type=Path, metavar="OUT", help="the file to write: .s19, .hex or .bin")
    add("--whole", action="store_true", help="from address 0, not only the application's flash")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    code: int = args.action(args)
    return code


def _show(args: argparse.Namespace) -> int:
    for path in (args.svg, args.json):
        check_writable(path)
    dump = read_dump(args.flash, args.part, args.address)
    image = None if args.image is None else read_image(args.image)
    if image is not None and image.end > dump.flash.part.flash_end:
        raise UsageError(
            f"firmware {args.image}: ends at {image.end:#010x}, behind the flash of {dump.flash.part.name}"
        )
    facts = _facts(dump)
    configuration = _configuration(dump)
    picture = picture_of(dump.flash, configuration=configuration, image=image, wear=dump.wear)
    differing = [index for index, state in enumerate(picture.states) if state is SectorState.DIFFERS]
    if image is not None:
        found = f"differs in {_many(len(differing), 'sector')}" if differing else "equal"
        facts["image"] = f"{args.image.name}: {found}"
    if args.svg is not None:
        write_file(args.svg, as_svg(picture, facts).encode())
    if args.json is not None:
        write_json(
            args.json,
            {
                "version": 1,
                **{name.replace(" ", "_"): value for name, value in facts.items()},
                "sector_size": picture.part.sector_size,
                "states": [state.value for state in picture.states],
                "protected": sorted(picture.protected),
                "wear": None if picture.wear is None else {str(i): n for i, n in sorted(picture.wear.items())},
                "differing": differing,
            },
        )
    if str(args.json) != "-":
        print("\n".join(aligned(facts)) + "\n")
        console = Console(highlight=False, soft_wrap=True, color_system=None if args.plain else "auto")
        console.print(as_text(picture), end="")
    return exit_codes.FAILED if differing else exit_codes.OK


def _configuration(dump: Dump) -> FlashConfiguration | None:
    if not dump.has_field:
        return None
    return FlashConfiguration.decode(dump.flash.read(FIELD_START, FIELD_START + FIELD_SIZE))


def _facts(dump: Dump) -> dict[str, str]:
    """Who it is, what is in it, and what becomes of it at a reset."""
    flash, part, device = dump.flash, dump.flash.part, dump.device
    facts = {"flash": f"{dump.path.name}, {part.name}, {part.flash_size // 1024} KiB"}
    if device is not None:
        facts["device"] = (
            f"{device.identification.mcuid}, bootloader {device.settings.policy.value}, {device.settings.order.value}"
        )
    end = part.flash_end if device is None else application_end(part, device.settings.policy)
    segments = list(flash.segments(part.application_start, end))
    if segments:
        first, end = segments[0][0], segments[-1][0] + len(segments[-1][1])
        crc = image_crc32(flash.read(first, end))
        facts["application"] = f"[{first:#010x}, {end:#010x}), CRC-32 {crc:08X}"
        vectors = check_vectors(flash.read, part, part.flash_end)
        facts["vectors"] = "sane" if vectors is None else vectors
        sealed = read_seal(flash.read, part.application_start) is not None
        wrong = check_seal(flash.read, part) if sealed else "none"
        facts["seal"] = "right" if wrong is None else wrong
    else:
        facts["application"] = "blank"
    if device is not None:
        facts["at a reset"] = at_reset(flash, device.settings.policy).value
    configuration = _configuration(dump)
    if configuration is None:
        facts["debugger"] = "unknown: the dump has no flash configuration field"
    else:
        facts["debugger"] = (
            f"{configuration.debugging.value} (FSEC {configuration.fsec:02X}, FPROT {configuration.fprot:08X})"
        )
    return facts


def _diff(args: argparse.Namespace) -> int:
    check_writable(args.json)
    one, two = (read_dump(path, args.part, args.address) for path in (args.a, args.b))
    part = one.flash.part
    if part != two.flash.part:
        raise UsageError(
            f"{args.a} is of {part.name}, {args.b} of {two.flash.part.name}: expected the same part "
            "(--part says that of a dump)"
        )
    ranges = list(_ranges(one.flash, two.flash))
    found: dict[str, Any] = {
        "version": 1,
        "equal": not ranges,
        "bytes": sum(end - start for start, end in ranges),
        "ranges": [
            {
                "start": start,
                "end": end,
                "a": one.flash.read(start, end).hex(),
                "b": two.flash.read(start, end).hex(),
            }
            for start, end in ranges
        ],
    }
    if args.json is not None:
        write_json(args.json, found)
    if str(args.json) != "-":
        for start, end in ranges:
            print(f"[{start:#010x}, {end:#010x}) {_many(end - start, 'byte')}")
            for line in _lines(one.flash, two.flash, start, end, args.all):
                print(line)
        sectors = {address // part.sector_size for start, end in ranges for address in range(start, end)}
        counts = ((len(ranges), "range"), (found["bytes"], "byte"), (len(sectors), "sector"))
        print("different: " + ", ".join(_many(*count) for count in counts) if ranges else "equal")
    return exit_codes.FAILED if ranges else exit_codes.OK


def _ranges(one: Flash, two: Flash) -> Iterator[tuple[int, int]]:
    """Half-open ranges in which two flashes differ."""
    part = one.part
    size = part.sector_size
    start = None
    for index in range(part.flash_size // size):
        a, b = (flash.read(index * size, (index + 1) * size) for flash in (one, two))
        for offset in range(size) if a != b or start is not None else ():
            differs = a[offset] != b[offset]
            if differs and start is None:
                start = index * size + offset
            elif not differs and start is not None:
                yield start, index * size + offset
                start = None
    if start is not None:
        yield start, part.flash_end


def _lines(one: Flash, two: Flash, start: int, end: int, everything: bool) -> Iterator[str]:
    """Sixteen bytes of each side a line, blank ones as dashes."""
    shown = end if everything else min(end, start + SHOWN_BYTES)
    for line in range(start, shown, 16):
        for side, flash in (("a", one), ("b", two)):
            data = flash.read(line, min(line + 16, shown))
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
            digits = " ".join("--" if byte == ERASED[0] else f"{byte:02x}" for byte in data)
            yield f"  {side} {line:#010x}  {digits:<47}  {text}"
    if shown < end:
        yield f"    … and {_many(end - shown, 'more byte')} (--all shows them)"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _dump(args: argparse.Namespace) -> int:
    suffix = args.output.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"output {args.output}, expected a name that ends in .s19, .hex or .bin")
    dump = read_dump(args.flash, args.part, args.address)
    content = encode_dump(dump.flash, suffix, whole=args.whole)
    write_file(args.output, content)
    what = "whole" if args.whole else "application"
    print(f"{args.output}: {len(content):,} bytes, the {what} flash of {dump.flash.part.name}")
    return exit_codes.OK
