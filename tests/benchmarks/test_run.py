"""`benchmarks/run.py` as its users start it; nothing here says how fast anything is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.fota_bench.command import main
from benchmarks.fota_bench.image import image_of
from benchmarks.fota_bench.pairs import MAX_RECORDS, MIN_RECORDS, PAIRS, RECORD_BYTES, records_of_a_device, too_many

from fota_protocol.parts import DEFAULT_PART, part

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
TIMEOUT = 240
"""Seconds for a whole quick run on a machine that is busy with other tests."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="the reference pair is in C, and there is no cc")
def test_quick_run_measures_every_pair_and_reader(tmp_path: Path) -> None:
    """A quick run at a few connections works in a process of its own and writes every measurement."""
    found = tmp_path / "found.json"

    command = [sys.executable, str(RUN), "--quick", "--connections", "1,5", "--rounds", "1", "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)

    assert (0, True) == (done.returncode, found.exists()), done.stderr
    result = json.loads(found.read_text(encoding="utf-8"))
    assert [(count, pair.name) for count in (1, 5) for pair in PAIRS] == [
        (m["connections"], m["pair"]) for m in result["measurements"]
    ]
    assert {"S-records", "Intel HEX"} == {row["format"] for row in result["ingest"]}
    assert result["facts"]["quick"]
    assert "ours, ours" in done.stdout


def test_run_without_a_compiler_says_what_it_skips(tmp_path: Path) -> None:
    """Without `cc`, readers are measured, the page stays, and the exit code says that pairs are missing."""
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text("<!-- measured: begin --><!-- measured: end -->", encoding="utf-8")
    (tmp_path / "images").mkdir()

    command = [sys.executable, str(RUN), "--quick", "--connections", "1", "--json", str(found), "--write", str(page)]
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=environment)

    assert 3 == done.returncode, done.stderr
    result = json.loads(found.read_text(encoding="utf-8"))
    assert {"pairs", "srec_info"} == set(result["skipped"])
    assert "no C compiler" in result["skipped"]["pairs"]
    assert "Not measured: pairs: no C compiler" in done.stdout
    assert "<!-- measured: begin --><!-- measured: end -->" == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, "no markers"])
def test_page_that_cannot_be_written_is_found_before_the_run(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody measures for many minutes to learn that the page has no place for it."""
    page = tmp_path / "page.md"
    (tmp_path / "images").mkdir()
    if content is not None:
        page.write_text(content, encoding="utf-8")

    with pytest.raises(SystemExit, match="2"):
        main(["--write", str(page)])

    assert ("no such file" if content is None else "expected the markers") in capsys.readouterr().err


def test_connections_beyond_the_open_files_are_skipped_with_a_reason() -> None:
    """A process needs an open file for each connection and some more."""
    assert too_many(10_000, 20_000) is None
    assert "10,064 open files a process, 10,000 allowed" == too_many(10_000, 10_000)


@pytest.mark.parametrize(("connections", "records"), [(1, MAX_RECORDS), (100, 1_000), (1_000, MIN_RECORDS)])
def test_pair_moves_as_many_records_as_images_allow(connections: int, records: int) -> None:
    """Records of a pair are shared out among its devices, within what an image can be."""
    assert records == records_of_a_device(connections, 100_000)


@pytest.mark.parametrize("records", [MIN_RECORDS, MAX_RECORDS])
def test_image_fits_the_part_and_would_start(records: int) -> None:
    """The image that is measured with has as many records as asked for, is sealed, and always the same."""
    target = part(DEFAULT_PART)

    image = image_of(records, RECORD_BYTES, target)

    image.check_fits(target)
    assert records == len(image.records)
    assert {44} == {len(frame) for frame in image.frames}
    assert image.crc32 == image_of(records, RECORD_BYTES, target).crc32
