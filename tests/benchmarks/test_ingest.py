"""Readers of firmware files side by side: all read the same bytes; one that finds others counts for nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.fota_bench import ingest
from benchmarks.fota_bench.errors import BenchmarkError
from benchmarks.fota_bench.ingest import (
    IHEX,
    OURS,
    READERS,
    RECORD_SIZES,
    SREC,
    SREC_INFO,
    Reader,
    Reading,
    Text,
    measure_ingest,
    missing_readers,
    summarize_ingest,
    texts,
)

from fota_protocol.formats import load

SMALL = 4_800
"""Bytes of an image that is read in no time, a multiple of both record sizes."""


def quiet(line: str) -> None:
    """Progress that nobody follows."""


def test_every_text_holds_the_same_bytes(tmp_path: Path) -> None:
    """Formats and sizes of records differ, what is in them does not."""
    made = texts(tmp_path, SMALL)

    images = [load(text.content) for text in made]
    assert [(kind, size) for kind in (SREC, IHEX) for size in RECORD_SIZES] == [
        (t.format, t.record_bytes) for t in made
    ]
    assert 1 == len({(image.first, image.end, image.crc32) for image in images})
    assert not [image.warnings for image in images if image.warnings]
    assert [text.content for text in made] == [text.path.read_bytes() for text in made]


def test_readers_take_turns(tmp_path: Path) -> None:
    """Every reader that is there reads every text once a round, the library first."""
    readings = list(measure_ingest(tmp_path, 2, quiet, SMALL))

    missing = missing_readers()
    expected = [
        (kind, size, number, reader.name)
        for kind in READERS
        for size in RECORD_SIZES
        for number in (1, 2)
        for reader in READERS[kind]
        if reader.name not in missing
    ]
    assert expected == [(r.format, r.record_bytes, r.round, r.reader) for r in readings]
    assert all(reading.rate > 0 for reading in readings)


def test_missing_program_is_skipped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without srec_info, the others are measured and its row has no figures."""
    monkeypatch.setenv("PATH", str(tmp_path))

    rows = summarize_ingest(list(measure_ingest(tmp_path, 1, quiet, SMALL)))

    assert [SREC_INFO] == list(missing_readers())
    assert "srecord" in missing_readers()[SREC_INFO]
    assert {(SREC_INFO, None)} == {(row.reader, row.mb_per_s) for row in rows if row.mb_per_s is None}
    assert len(RECORD_SIZES) * sum(map(len, READERS.values())) == len(rows)


def test_ratio_is_to_the_library_of_the_same_round() -> None:
    """Half the library's time is twice its rate, whatever the machine did in between."""
    readings = [
        Reading(SREC, 16, reader, number, 1_000_000, seconds)
        for number, slowness in ((1, 1.0), (2, 7.0))
        for reader, seconds in (("bincopy", 1.0 * slowness), (OURS, 0.5 * slowness), (SREC_INFO, 2.0 * slowness))
    ]

    rows = summarize_ingest(readings)

    assert [("bincopy", 1.0), (OURS, 2.0), (SREC_INFO, 0.5)] == [(row.reader, row.ratio) for row in rows]


def test_rate_is_in_millions_of_bytes_of_text() -> None:
    """MB/s are of the file's text, and a MB is a million bytes."""
    assert 4.0 == Reading(SREC, 16, OURS, 1, 2_000_000, 0.5).rate


@pytest.mark.parametrize("found", [0, SMALL - 1])
def test_reader_that_finds_other_bytes_is_no_measurement(
    found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast and wrong does not count."""

    def read(text: Text) -> Callable[[], int]:
        return lambda: found

    monkeypatch.setattr(ingest, "READERS", {SREC: (Reader("hasty", read),), IHEX: ()})

    with pytest.raises(BenchmarkError, match=f"hasty: {found} bytes in 16.s19, expected {SMALL}"):
        list(measure_ingest(tmp_path, 1, quiet, SMALL))
