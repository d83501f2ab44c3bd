"""`fota flash`: the map on a terminal and as a picture, differences, and dumps as other readers see them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any, Final

import bincopy
import pytest

import fota_fixtures
from fota_cli.main import main
from fota_protocol.formats import load
from fota_protocol.identity import Identification
from fota_protocol.parts import PARTS
from fota_simulator import device_file
from fota_simulator.boot import BootloaderSettings, BootPolicy
from fota_simulator.bootloader import Bootloader, bootloader_sectors
from fota_simulator.device_file import SavedDevice
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.flash.configuration import DEVELOPMENT_FIELD, protecting_field

PART: Final = PARTS["MK60DN512"]
IMAGE: Final = fota_fixtures.path("blink_1.s19")
WHO: Final = Identification("0001100023593110965955141", "")
LOCKED_FIELD: Final = DEVELOPMENT_FIELD[:0xC] + b"\xef" + DEVELOPMENT_FIELD[0xD:]
"""SEC is not 10, MEEN is: secured, and mass erase is disabled."""


def device(path: Path, field: bytes = DEVELOPMENT_FIELD, wear: int = 1) -> SavedDevice:
    """A device that runs the image, in a file."""
    flash = Flash(PART, SectorPool(), bootloader_sectors(PART, field))
    new = SavedDevice(WHO, PART)
    bootloader = Bootloader(flash, new.settings.policy)
    for record in load(IMAGE.read_bytes()).records:
        bootloader.write(record)
    bootloader.finish("1")
    saved = dataclasses.replace(new, sectors=flash.contents(), wear=dict.fromkeys(flash.erase_counts, wear))
    device_file.save(path, saved)
    return saved


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and figures of `fota flash show`."""
    code = main(["flash", "show", *arguments, "--json", "-"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_device_is_shown_with_who_it_is_and_what_it_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A letter for each sector, a legend that counts them, and the wear."""
    device(tmp_path / "board.k60", wear=120)

    code = main(["flash", "show", str(tmp_path / "board.k60"), "--image", str(IMAGE)])

    printed = capsys.readouterr().out
    assert code == 0
    assert f"{WHO.mcuid}, bootloader sealed, vectors-last" in printed
    assert "at a reset   application" in printed
    assert "debugger     open (FSEC FE, FPROT FFFFFFFF)" in printed
    assert "image        blink_1.s19: equal" in printed
    assert "0x00000000  bbbbbbbbo" + "." * 55 in printed
    assert "b 8 bootloader   o 1 programmed   . 247 blank" in printed
    assert "0x00000000  ........b" + "." * 55 in printed
    assert "at most 120 of a sector, 120 in all" in printed


@pytest.mark.parametrize(
    ("field", "protected", "debugger"),
    [
        (DEVELOPMENT_FIELD, 0, "open (FSEC FE, FPROT FFFFFFFF)"),
        (protecting_field(PART, 0, PART.application_start), 8, "open (FSEC FE, FPROT FFFFFFFE)"),
        (b"\xff" * 16, 0, "mass erase only (FSEC FF, FPROT FFFFFFFF)"),
        (LOCKED_FIELD, 0, "lost: secured, and mass erase is disabled (FSEC EF, FPROT FFFFFFFF)"),
    ],
    ids=["development", "protected", "erased", "locked"],
)
def test_configuration_field_tells_what_is_protected_and_who_may_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: bytes, protected: int, debugger: str
) -> None:
    """From the bytes at 0x400, as the part latches them."""
    device(tmp_path / "board.k60", field)

    _, found = shown(capsys, str(tmp_path / "board.k60"))
    main(["flash", "show", str(tmp_path / "board.k60")])

    assert (list(range(protected)), debugger) == (found["protected"], found["debugger"])
    assert ("B" * protected + "b" * (8 - protected) + "o.") in capsys.readouterr().out


def test_sector_that_is_not_as_the_image_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another byte in it: exit code 1."""
    saved = device(tmp_path / "board.k60")
    first = saved.sectors[8]
    sectors = {**saved.sectors, 8: bytes([first[0] ^ 1]) + first[1:]}
    device_file.save(tmp_path / "other.k60", dataclasses.replace(saved, sectors=sectors))

    code, found = shown(capsys, str(tmp_path / "other.k60"), "--image", str(IMAGE))

    assert (1, [8]) == (code, found["differing"])
    assert "blink_1.s19: differs in 1 sector" == found["image"]


def test_what_an_older_image_left_is_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An update erases no more than it needs: what is in others is shown, and is no failure."""
    saved = device(tmp_path / "board.k60")
    sectors = {**saved.sectors, 100: b"\x55" * PART.sector_size}
    device_file.save(tmp_path / "other.k60", dataclasses.replace(saved, sectors=sectors))

    code, found = shown(capsys, str(tmp_path / "other.k60"), "--image", str(IMAGE))

    assert (0, []) == (code, found["differing"])
    assert [100] == [index for index, state in enumerate(found["states"]) if state == "other"]
    assert "blink_1.s19: equal" == found["image"]


def test_mark_of_an_update_is_not_of_the_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the policy `mark`, the application ends before the last sector."""
    saved = device(tmp_path / "board.k60")
    _, before = shown(capsys, str(tmp_path / "board.k60"))
    sectors = {**saved.sectors, 255: bytes(16) + b"\xff" * (PART.sector_size - 16)}
    marked = dataclasses.replace(saved, settings=BootloaderSettings(BootPolicy.MARK), sectors=sectors)
    device_file.save(tmp_path / "marked.k60", marked)

    _, found = shown(capsys, str(tmp_path / "marked.k60"))

    assert before["application"] == found["application"]
    assert "application" == found["at_a_reset"]


@pytest.mark.parametrize("suffix", [".s19", ".hex", ".bin"])
@pytest.mark.parametrize("whole", [False, True])
def test_dump_is_the_flash_to_another_reader_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, whole: bool
) -> None:
    """bincopy reads the same bytes; a dump of the dump, and a difference with it, are as the device."""
    saved = device(tmp_path / "board.k60")
    out = tmp_path / f"flash{suffix}"
    options = ["--whole"] if whole else []

    codes = [main(["flash", "dump", str(tmp_path / "board.k60"), str(out), *options])]
    codes.append(main(["flash", "dump", str(out), str(tmp_path / f"again{suffix}"), *options]))

    start = 0 if whole else PART.application_start
    dumped = bincopy.BinFile()
    if suffix == ".bin":
        dumped.add_binary_file(str(out), address=start)
    else:
        dumped.add_file(str(out))
    assert codes == [0, 0]
    content = bytes(dumped.as_binary(start, PART.flash_end, b"\xff")).ljust(PART.flash_end - start, b"\xff")
    assert saved.read(start, PART.flash_end) == content
    assert out.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()
    capsys.readouterr()
    assert (0 if whole else 1) == main(["flash", "diff", str(tmp_path / "board.k60"), str(out)])
    assert ("equal\n" if whole else " bytes, 8 sectors\n") == capsys.readouterr().out[-6 if whole else -18 :]


def test_dump_without_the_field_says_that_it_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An application's bytes say nothing of security."""
    _, found = shown(capsys, str(IMAGE))

    assert found["debugger"] == "unknown: the dump has no flash configuration field"
    assert (found["protected"], found["wear"]) == ([], None)


def test_difference_names_ranges_and_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half-open, coalesced, also across sectors; both sides; exit code 1."""
    saved = device(tmp_path / "a.k60")
    sectors = dict(saved.sectors)
    sectors[8] = sectors[8][:-2] + b"\x12\x34"
    sectors[9] = b"\x56" + b"\xff" * (PART.sector_size - 1)
    device_file.save(tmp_path / "b.k60", dataclasses.replace(saved, sectors=sectors))
    files = [str(tmp_path / "a.k60"), str(tmp_path / "b.k60")]

    code = main(["flash", "diff", *files])
    printed = capsys.readouterr().out
    main(["flash", "diff", *files, "--json", "-"])
    found = json.loads(capsys.readouterr().out)

    assert code == 1
    assert "[0x000047fe, 0x00004801) 3 bytes" in printed
    assert "b 0x000047fe  12 34 56" in printed
    assert "different: 1 range, 3 bytes, 2 sectors" in printed
    assert [{"start": 0x47FE, "end": 0x4801, "a": "ffffff", "b": "123456"}] == found["ranges"]


def test_long_difference_is_cut_unless_all_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first bytes, and how many more there are."""
    device(tmp_path / "a.k60")
    other = str(fota_fixtures.path("demo_16k.s19"))

    main(["flash", "diff", str(IMAGE), other])
    short = capsys.readouterr().out
    main(["flash", "diff", str(IMAGE), other, "--all"])
    long = capsys.readouterr().out

    assert "more bytes (--all shows them)" in short
    assert "more bytes" not in long
    assert len(long) > 3 * len(short)


def test_equal_flashes_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever kinds of files they are in."""
    code = main(["flash", "diff", str(IMAGE), str(fota_fixtures.path("blink_1.hex"))])

    assert (code, "equal\n") == (0, capsys.readouterr().out)


def picture(tmp_path: Path) -> Path:
    """The map of a worn device with a protected bootloader, as a file."""
    device(tmp_path / "board.k60", protecting_field(PART, 0, PART.application_start), wear=9_000)
    out = tmp_path / "map.svg"
    other = str(fota_fixtures.path("demo_16k.s19"))
    assert main(["flash", "show", str(tmp_path / "board.k60"), "--image", other, "--svg", str(out)]) == 1
    return out


def test_picture_has_a_titled_square_for_each_sector(tmp_path: Path) -> None:
    """Its classes are the states; titles say the same in words."""
    root = ET.parse(picture(tmp_path)).getroot()
    squares = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if len(rect)]

    assert len(squares) == 256
    assert Counter({"boot protected": 8, "differs": 8, "blank": 240}) == Counter(rect.get("class") for rect in squares)
    assert "[0x00004000, 0x00004800) sector 8: differs from the image, of the image, erased 9,000 times" in [
        rect[0].text for rect in squares
    ]


def test_picture_is_one_that_a_browser_draws(tmp_path: Path) -> None:
    """Headless Chromium takes it, and paints the colour of what differs."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    shot = tmp_path / "map.png"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    subprocess.run(
        [
            chromium,
            *options,
            *quiet,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={shot}",
            "--window-size=700,500",
            picture(tmp_path).as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )

    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 10_000


def test_process_prints_no_colours_unless_there_is_a_terminal(tmp_path: Path) -> None:
    """Letters alone say it; with --plain also where colours are asked for."""
    device(tmp_path / "board.k60")
    terminal = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}

    pipe, plain, coloured = (
        subprocess.run(
            [sys.executable, "-m", "fota_cli", "flash", "show", str(tmp_path / "board.k60"), *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=terminal | more,
        ).stdout
        for options, more in (([], {}), (["--plain"], forced), ([], forced))
    )

    assert "bbbbbbbbo" in pipe
    assert pipe == plain
    assert "\x1b" in coloured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "missing.k60"], "missing.k60: No such file"),
        (["show", str(fota_fixtures.path("bad_checksum.s19"))], "line 18: checksum"),
        (["show", str(fota_fixtures.path("above_flash.s19"))], "ends at 0x00080000"),
        (["show", "empty.bin"], "0 bytes from 0x00004000, expected at least one"),
        (["show", "short.bin", "--address", "0x7ffff"], "2 bytes from 0x0007ffff"),
        (["show", "short.bin", "--address", "-1"], "2 bytes from"),
        (["show", "damaged.k60"], "damaged.k60: damaged"),
        (["show", str(IMAGE), "--part", "MK99"], "unknown part"),
        (["show", str(IMAGE), "--image", "missing.s19"], "missing.s19"),
        (["show", str(IMAGE), "--svg", "no/such/folder/map.svg"], "no/such/folder"),
        (["diff", str(IMAGE), "board.k60", "--part", "MK60FN1M0"], "expected the same part"),
        (["dump", str(IMAGE), "out.elf"], "expected a name that ends in .s19, .hex or .bin"),
        (["dump", str(IMAGE), "no/such/folder/out.s19"], "no/such/folder"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """What came, where, and what was expected; nothing is written."""
    monkeypatch.chdir(tmp_path)
    device(Path("board.k60"))
    Path("damaged.k60").write_bytes(Path("board.k60").read_bytes()[:-1])
    Path("empty.bin").touch()
    Path("short.bin").write_bytes(b"ab")
    before = sorted(tmp_path.iterdir())

    code = main(["flash", *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("fota: ")
    assert message in printed.err
    assert before == sorted(tmp_path.iterdir())
