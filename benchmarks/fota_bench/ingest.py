"""How fast firmware files are read, beside libraries and a program that read them: MB/s of text, ratios in each round.

Ours is `fota_protocol.formats.load`, the whole of it: format by content, every record and checksum, overlaps,
termination and count, segments, CRC, frames to send. Readers take turns, the library first; every one is checked to
have found all bytes. Ours and the libraries read from memory, `srec_info` is a process that reads a file: its start is
in its time.
"""

import gc
import io
import random
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bincopy
import intelhex

from fota_protocol.formats import load
from fota_protocol.srecord import SRecord

from .errors import BenchmarkError
from .image import records_of

IMAGE_BYTES: Final = 512 * 1024
"""All flash of the smaller part."""

RECORD_SIZES: Final = (16, 240)
"""Data bytes of a record: what linkers write, and about the longest that devices take."""

READINGS: Final = 11
"""How often every reader reads every text: a single reading of some ten milliseconds is at the mercy of the machine."""

QUICK_READINGS: Final = 2
"""The same in a quick run."""

SREC_INFO: Final = "srec_info"
"""The program of Debian's package srecord."""

SREC_INFO_TIMEOUT: Final = 60.0
"""Seconds for one text."""

SREC: Final = "S-records"
IHEX: Final = "Intel HEX"
OURS: Final = "ours"
"""Names in the table."""


@dataclass(frozen=True, slots=True)
class Text:
    """One firmware file, in memory and on disk."""

    format: str
    record_bytes: int
    content: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class Reader:
    """Something that reads a text, and can tell afterwards how many data bytes it found."""

    name: str
    read: Callable[[Text], Callable[[], int]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader's time for one text."""

    format: str
    record_bytes: int
    reader: str
    round: int
    text_bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """MB/s of text; a MB is 1,000,000 bytes."""
        return self.text_bytes / self.seconds / 1e6


@dataclass(frozen=True, slots=True)
class IngestRow:
    """One reader and one text over all rounds. Figures are None where the reader is missing."""

    format: str
    record_bytes: int
    reader: str
    mb_per_s: float | None
    ratio: float | None
    """To the library of the format, which is the first reader of its text."""
    ratio_low: float | None
    ratio_high: float | None


def _by_us(text: Text) -> Callable[[], int]:
    image = load(text.content)
    return lambda: image.size


def _by_bincopy(text: Text) -> Callable[[], int]:
    reader = bincopy.BinFile()
    reader.add_srec(text.content.decode("ascii"))
    return lambda: len(reader)


def _by_intelhex(text: Text) -> Callable[[], int]:
    reader = intelhex.IntelHex()
    reader.loadhex(io.StringIO(text.content.decode("ascii")))
    return lambda: len(reader)


def _by_srec_info(text: Text) -> Callable[[], int]:
    command = [SREC_INFO, str(text.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SREC_INFO_TIMEOUT)
    return lambda: _told_size(done)


def _told_size(done: subprocess.CompletedProcess[str]) -> int:
    """The bytes in the range that `srec_info` prints; 0 where it failed."""
    found = re.search(r"Data:\s+([0-9A-F]+) - ([0-9A-F]+)\s*$", done.stdout)
    return 0 if found is None or done.returncode else int(found[2], 16) - int(found[1], 16) + 1


READERS: Final = {
    SREC: (Reader("bincopy", _by_bincopy), Reader(OURS, _by_us), Reader(SREC_INFO, _by_srec_info)),
    IHEX: (Reader("intelhex", _by_intelhex), Reader(OURS, _by_us)),
}
"""By format, in the order in which they read; ratios are to the first."""


def missing_readers() -> dict[str, str]:
    """Readers that cannot be measured here, each with the reason."""
    if shutil.which(SREC_INFO) is None:
        return {SREC_INFO: f"no `{SREC_INFO}` on the path (Debian package srecord)"}
    return {}


def texts(folder: Path, image_bytes: int = IMAGE_BYTES) -> list[Text]:
    """The same bytes in every format and record size, written to `folder`."""
    content = random.Random(image_bytes).randbytes(image_bytes)
    made = []
    for size in RECORD_SIZES:
        records = [SRecord(0, 0), *records_of(content, 0, size), SRecord(8, 0)]
        made.append((SREC, size, b"\n".join(record.encode() for record in records) + b"\n", f"{size}.s19"))
    for size in RECORD_SIZES:
        writer = bincopy.BinFile()
        writer.add_binary(content)
        made.append((IHEX, size, writer.as_ihex(size).encode("ascii"), f"{size}.hex"))
    for _, _, text, name in made:
        (folder / name).write_bytes(text)
    return [Text(kind, size, text, folder / name) for kind, size, text, name in made]


def measure_ingest(
    folder: Path, readings: int, progress: Callable[[str], None], image_bytes: int = IMAGE_BYTES
) -> Iterator[Reading]:
    """Let every reader that is there read every text `readings` times; raises `BenchmarkError`."""
    missing = missing_readers()
    for text in texts(folder, image_bytes):
        progress(f"{text.format}, {text.record_bytes} bytes a record: {readings} readings")
        for number in range(1, readings + 1):
            for reader in READERS[text.format]:
                if reader.name not in missing:
                    yield _measured(reader, text, number, image_bytes)


def _measured(reader: Reader, text: Text, number: int, image_bytes: int) -> Reading:
    gc.collect()  # or a reader would pay for what the one before it left
    start = time.perf_counter()
    size_found = reader.read(text)
    seconds = time.perf_counter() - start
    if (size := size_found()) != image_bytes:
        raise BenchmarkError(f"{reader.name}: {size} bytes in {text.path.name}, expected {image_bytes}")
    return Reading(text.format, text.record_bytes, reader.name, number, len(text.content), seconds)


def summarize_ingest(readings: Sequence[Reading]) -> list[IngestRow]:
    """Medians over the rounds, a row for every reader of every text, also for one that is missing."""
    by_place = {(r.format, r.record_bytes, r.reader, r.round): r for r in readings}
    rows = []
    for kind, size in dict.fromkeys((r.format, r.record_bytes) for r in readings):
        library = READERS[kind][0].name
        for reader in READERS[kind]:
            own = [r for r in readings if (r.format, r.record_bytes, r.reader) == (kind, size, reader.name)]
            if not own:
                rows.append(IngestRow(kind, size, reader.name, None, None, None, None))
                continue
            ratios = [r.rate / by_place[kind, size, library, r.round].rate for r in own]
            rate = statistics.median(r.rate for r in own)
            rows.append(IngestRow(kind, size, reader.name, rate, statistics.median(ratios), min(ratios), max(ratios)))
    return rows
