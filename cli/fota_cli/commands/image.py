"""Look at a firmware file as a server and a device would, and make another one of it.

  fota image check app.s19
  fota image check app.s19 --part TWR-K60F120M --round-trip 0.6 --json -
  fota image seal app.s19 sealed.s19
  fota image pack sealed.s19 packed.s19
  fota image convert app.elf app.s19

Files are S-records, Intel HEX or ELF; a name that ends in .bin is a raw image, for --address. Exit code 0 when all is
well; of check, 1 when a server refuses the file, or a device would not start it; 2 when there is nothing to check.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fota_protocol.errors import ImageError
from fota_protocol.formats import FileFormat, cut, detect_format, dump_image, load
from fota_protocol.image import FirmwareImage
from fota_protocol.integrity import check_seal, check_vectors, read_seal
from fota_protocol.parts import DEFAULT_PART, Part

from .. import exit_codes
from ..choices import one_of
from ..device_options import PART_NAMES, part_named
from ..dumps import BINARY, SREC, SUFFIXES, encode_ihex, raw_address
from ..errors import UsageError
from ..files import check_writable, read_bytes, write_file, write_json

ROUND_TRIP: Final = 0.6
"""Seconds from a record to its ack on the field's modems."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, what: str, function: object, *examples: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name,
            help=what,
            description="\n".join([f"{what[0].upper()}{what[1:]}.", "", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(action=function)
        add = sub.add_argument
        add("file", type=Path, metavar="FILE", help="the firmware")
        add(
            "--part",
            default=DEFAULT_PART,
            metavar="NAME",
            help=f"part or board: {PART_NAMES} (default: {DEFAULT_PART})",
        )
        add(
            "--format", type=one_of(FileFormat), metavar="srec|ihex|elf|binary", help="what it is (default: by content)"
        )
        add(
            "--address",
            type=raw_address,
            metavar="N",
            help="where a raw image goes (default: where applications begin)",
        )
        add("--allow-unterminated", action="store_true", help="take S-records without a termination record")
        return sub

    add = action(
        "check",
        "check a firmware file, and say how long an update takes",
        _check,
        "fota image check app.s19",
        "fota image check app.hex --part TWR-K60F120M --round-trip 1.2",
        "fota image check app.bin --address 0x8000 --json - | jq .problems",
    ).add_argument
    add("--round-trip", type=float, default=ROUND_TRIP, metavar="S", help="seconds per record (default: 0.6)")
    add("--json", type=Path, metavar="FILE", help="write what was found as JSON; - for standard output")
    for name, what, function, examples in (
        (
            "seal",
            "let the image carry its own CRC, where Kinetis tools expect it",
            _seal,
            ["fota image seal app.s19 sealed.s19", "fota image seal app.elf sealed.s19 --part TWR-K60F120M"],
        ),
        (
            "pack",
            "re-cut the image into few long S-records, for slow links",
            _pack,
            ["fota image pack sealed.s19 packed.s19"],
        ),
        (
            "convert",
            "write the same bytes as S-records, Intel HEX or raw, by the name's ending",
            _convert,
            ["fota image convert app.elf app.s19", "fota image convert app.bin app.hex --address 0x4000"],
        ),
    ):
        sub = action(name, what, function, *examples)
        sub.add_argument("output", type=Path, metavar="OUT", help="the file to write")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    code: int = args.action(args)
    return code


def _load(data: bytes, args: argparse.Namespace, part: Part) -> FirmwareImage:
    """The image; raises `ImageError`."""
    is_raw = args.format is FileFormat.BINARY or (args.format is None and args.file.suffix.lower() in BINARY)
    return load(
        data,
        file_format=FileFormat.BINARY if is_raw else args.format,
        address=part.application_start if args.address is None else args.address,
        allow_unterminated=args.allow_unterminated,
    )


def _read(args: argparse.Namespace, part: Part) -> FirmwareImage:
    """The image; raises `UsageError`."""
    try:
        return _load(read_bytes(args.file), args, part)
    except ImageError as error:
        raise UsageError(f"firmware {args.file}: {error}") from error


def _check(args: argparse.Namespace) -> int:
    part = part_named(args.part)
    if not 0 <= args.round_trip <= 3600:
        raise UsageError(f"round trip {args.round_trip:g}, expected 0 to 3600 s")
    check_writable(args.json)
    data = read_bytes(args.file)
    found: dict[str, Any] = {"version": 1, "file": str(args.file), "part": part.name}
    try:
        image = _load(data, args, part)
    except ImageError as error:
        found |= {"ok": False, "problems": [str(error)]}
    else:
        found |= _facts(image, data, args, part)
    if args.json is not None:
        write_json(args.json, found)
    if str(args.json) != "-":
        print(_text(found))
    return exit_codes.OK if found["ok"] else exit_codes.FAILED


def _facts(image: FirmwareImage, data: bytes, args: argparse.Namespace, part: Part) -> dict[str, Any]:
    """What there is to know, and what is wrong with it."""
    problems: list[str] = []
    try:
        image.check_fits(part)
    except ImageError as error:
        problems.append(str(error))
    base = part.application_start
    vectors = seal = None
    if image.first <= base < image.end:
        vectors = check_vectors(image.read, part, image.end)
        has_seal = read_seal(image.read, base) is not None
        seal = check_seal(image.read, part) if has_seal else "none"
        problems += [wrong for wrong in (vectors, seal if has_seal else None) if wrong is not None]
    else:
        vectors, seal = f"none at {base:#010x}, where the application begins", "none"
        problems.append(f"no vectors: {vectors}")
    packed = image.pack(part.sector_size)
    holes = [[before.end, after.start] for before, after in zip(image.segments, image.segments[1:], strict=False)]
    return {
        "ok": not problems,
        "problems": problems,
        "warnings": list(image.warnings),
        "format": (args.format or detect_format(data)).value,
        "header": image.header.decode("ascii", "backslashreplace"),
        "first": image.first,
        "end": image.end,
        "bytes": sum(len(segment.data) for segment in image.segments),
        "holes": holes,
        "image_crc": f"{image.crc32:08X}",
        "records": len(image.records),
        "longest_record": max(len(frame) for frame in image.frames),
        "vectors": "sane" if vectors is None else vectors,
        "seal": "right" if seal is None else seal,
        "round_trip_s": args.round_trip,
        "update_s": _update_s(image, args.round_trip),
        "packed_records": len(packed.records),
        "packed_update_s": _update_s(packed, args.round_trip),
    }


def _update_s(image: FirmwareImage, round_trip_s: float) -> float:
    """Seconds of an update: a round trip for the identification, for the permission's ack, each record and the end."""
    return round((len(image.records) + 3) * round_trip_s, 3)


def _text(found: Mapping[str, Any]) -> str:
    lines = [f"{found['file']}: {'well' if found['ok'] else 'NOT well'}, for {found['part']}"]
    lines += [f"  PROBLEM    {problem}" for problem in found["problems"]]
    if "format" not in found:
        return "\n".join(lines)
    holes = ", ".join(f"[{start:#010x}, {end:#010x})" for start, end in found["holes"][:4])
    more = f" and {len(found['holes']) - 4} more" if len(found["holes"]) > 4 else ""
    header = f", header {found['header']!r}" if found["header"] else ""
    lines += [f"  warning    {warning}" for warning in found["warnings"]]
    lines += [
        f"  format     {found['format']}{header}",
        f"  range      [{found['first']:#010x}, {found['end']:#010x}), {found['bytes']:,} bytes",
        f"  holes      {holes + more or 'none'}",
        f"  image CRC  {found['image_crc']}",
        f"  vectors    {found['vectors']}",
        f"  seal       {found['seal']}",
        f"  records    {found['records']:,}, the longest has {found['longest_record']} characters",
        f"  update     {_duration(found['update_s'])} at a round trip of {found['round_trip_s']:g} s; "
        f"packed into {found['packed_records']:,} record{'s' * (found['packed_records'] != 1)} "
        f"{_duration(found['packed_update_s'])}",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _seal(args: argparse.Namespace) -> int:
    part = part_named(args.part)
    try:
        sealed = _read(args, part).seal(part.application_start)
    except ImageError as error:
        raise UsageError(f"firmware {args.file}: {error}") from error
    return _write(args.output, sealed, "sealed")


def _pack(args: argparse.Namespace) -> int:
    part = part_named(args.part)
    return _write(args.output, _read(args, part).pack(part.sector_size), "packed")


def _write(path: Path, image: FirmwareImage, what: str) -> int:
    if path.suffix.lower() not in SREC:
        raise UsageError(f"output {path}, expected a name for S-records, that ends in .s19, .s28, .s37, .srec or .mot")
    write_file(path, dump_image(image))
    print(f"{path}: {what}, {len(image.records):,} records, image CRC {image.crc32:08X}")
    return exit_codes.OK


def _convert(args: argparse.Namespace) -> int:
    part = part_named(args.part)
    suffix = args.output.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"output {args.output}, expected a name that ends in .s19, .hex or .bin")
    image = _read(args, part)
    if suffix in SREC:
        records = cut((segment.start, segment.data) for segment in image.segments)
        content = dump_image(
            FirmwareImage.from_records(records, header=image.header, start_address=image.start_address)
        )
    elif suffix in BINARY:
        content = image.read(image.first, image.end)
    else:
        content = encode_ihex((segment.start, segment.data) for segment in image.segments)
    write_file(args.output, content)
    print(f"{args.output}: {len(content):,} bytes from {image.first:#010x}, image CRC {image.crc32:08X}")
    return exit_codes.OK
