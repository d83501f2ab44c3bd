"""`fota image`: what is said of good, odd and broken files, and the files that it writes, as other readers see them."""

import json
from pathlib import Path
from typing import Any

import bincopy
import pytest

import fota_fixtures
from fota_cli.main import main
from fota_protocol.formats import load
from fota_protocol.integrity import check_seal
from fota_protocol.parts import PARTS

GOOD = fota_fixtures.path("blink_1.s19")
UNSEALED = fota_fixtures.path("blink_1_unsealed.s19")


def checked(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and figures."""
    code = main(["image", "check", str(path), "--json", "-", *options])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


@pytest.mark.parametrize("name", ["blink_1.s19", "blink_1.hex", "blink_1.elf", "unaligned.s19", "descending.s19"])
def test_good_file_is_well_in_any_format(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Its CRC is the manifest's, its vectors and seal are found."""
    facts = fota_fixtures.fixture(name).image

    code, found = checked(capsys, fota_fixtures.path(name))

    assert facts is not None
    assert (code, found["ok"], found["problems"]) == (0, True, [])
    assert (f"{facts.crc32:08X}", "sane", "right") == (found["image_crc"], found["vectors"], found["seal"])
    assert facts.records in (None, found["records"])  # files that are no S-records have none


@pytest.mark.parametrize("name", [fixture.name for fixture in fota_fixtures.manifest() if fixture.folder == "broken"])
def test_broken_file_is_not_well(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Each of them, with what is wrong."""
    code, found = checked(capsys, fota_fixtures.path(name))

    assert (code, found["ok"]) == (1, False)
    assert found["problems"]
    assert all(found["problems"])


def test_image_without_a_seal_is_well_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Not every bootloader asks for one."""
    code, found = checked(capsys, UNSEALED)

    assert (code, found["seal"]) == (0, "none")


def test_update_takes_a_round_trip_for_each_record(capsys: pytest.CaptureFixture[str]) -> None:
    """And three more: identification, permission, end."""
    _, found = checked(capsys, fota_fixtures.path("demo_16k.s19"), "--round-trip", "0.5")

    assert (1024 + 3) * 0.5 == found["update_s"]
    assert (found["packed_records"] + 3) * 0.5 == found["packed_update_s"]
    assert found["packed_records"] < 1024 / 8


def test_text_names_problem_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """For a person: the verdict first."""
    code = main(["image", "check", str(fota_fixtures.path("bad_checksum.s19"))])

    printed = capsys.readouterr().out
    assert code == 1
    assert "bad_checksum.s19: NOT well, for MK60DN512" in printed
    assert "PROBLEM    line 18: checksum 0x96, expected 0x97" in printed


def test_sealed_image_is_accepted_by_a_device_that_asks_for_a_seal(tmp_path: Path) -> None:
    """The bytes beside the seal, the order of records and the header are as before."""
    out = tmp_path / "sealed.s19"

    code = main(["image", "seal", str(UNSEALED), str(out)])

    before, after = load(UNSEALED.read_bytes()), load(out.read_bytes())
    assert code == 0
    assert check_seal(after.read, PARTS["MK60DN512"]) is None
    assert before.read(before.first, 0x43C0) == after.read(after.first, 0x43C0)
    assert before.read(0x43D0, before.end) == after.read(0x43D0, after.end)
    assert (before.header, before.start_address) == (after.header, after.start_address)


def test_packed_image_has_the_same_bytes_in_fewer_records(tmp_path: Path) -> None:
    """To another reader, too."""
    out = tmp_path / "packed.s19"

    code = main(["image", "pack", str(GOOD), str(out)])

    assert code == 0
    assert len(load(out.read_bytes()).records) == 6
    assert bincopy.BinFile(str(GOOD)).as_binary() == bincopy.BinFile(str(out)).as_binary()


@pytest.mark.parametrize("source", ["blink_1.s19", "blink_1.hex", "blink_1.elf"])
@pytest.mark.parametrize("suffix", [".s19", ".hex", ".bin"])
def test_converted_image_is_the_image_to_another_reader(tmp_path: Path, source: str, suffix: str) -> None:
    """From any format to any; back from a raw one with its address."""
    out, back = tmp_path / f"out{suffix}", tmp_path / "back.s19"

    codes = [
        main(["image", "convert", str(fota_fixtures.path(source)), str(out)]),
        main(["image", "convert", str(out), str(back), "--address", "0x4000"]),
    ]

    assert codes == [0, 0]
    expected = bincopy.BinFile(str(GOOD)).as_binary()
    if suffix == ".bin":
        assert expected == out.read_bytes()
    else:
        assert expected == bincopy.BinFile(str(out)).as_binary()
    assert expected == bincopy.BinFile(str(back)).as_binary()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "missing.s19"], "missing.s19: No such file"),
        (["check", "."], "Is a directory"),
        (["check", str(GOOD), "--part", "MK99"], "unknown part"),
        (["check", str(GOOD), "--round-trip", "-1"], "expected 0 to 3600"),
        (["check", str(GOOD), "--json", "no/such/folder/x.json"], "no/such/folder"),
        (["seal", str(fota_fixtures.path("bad_checksum.s19")), "out.s19"], "line 18"),
        (["seal", str(fota_fixtures.path("no_s0.s19")), "out.elf"], "expected a name for S-records"),
        (["seal", str(fota_fixtures.path("other_part.s19")), "out.s19"], "expected one from the vector table"),
        (["pack", str(GOOD), "no/such/folder/out.s19"], "no/such/folder"),
        (["convert", str(GOOD), "out.elf"], "expected a name that ends in .s19, .hex or .bin"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """Nothing is written."""
    monkeypatch.chdir(tmp_path)

    code = main(["image", *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("fota: ")
    assert message in printed.err
    assert [] == list(tmp_path.iterdir())
