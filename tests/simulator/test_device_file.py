"""Devices in files: what is written is read, what is damaged is refused, and no write leaves half a device."""

import base64
import hashlib
import json
import os
import random
import resource
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_protocol.identity import Identification
from fota_protocol.parts import PARTS, Part
from fota_simulator import device_file
from fota_simulator.boot import BootloaderSettings, BootPolicy, ProgrammingOrder
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.device_file import SavedDevice, load, save
from fota_simulator.errors import DeviceFileError
from fota_simulator.flash import SectorPool

PART: Final = PARTS["MK60DN512"]
ELSEWHERE: Final = Path("some/device.k60")

DEVICE: Final = SavedDevice(
    Identification("0123456789ABCDEF"),
    PART,
    BootloaderSettings(BootPolicy.MARK, ProgrammingOrder.FILE, guards_itself=False),
    sectors=dict(bootloader_sectors(PART)),
    wear={8: 3, 255: 10_000},
)


@st.composite
def devices(draw: st.DrawFn) -> SavedDevice:
    """Any device: of either format of MCUID, worn anywhere, with sectors of any content."""
    part = draw(st.sampled_from(list(PARTS.values())))
    indices = st.integers(0, part.flash_size // part.sector_size - 1)
    decimal = st.text("0123456789", min_size=25, max_size=25)
    hexadecimal = st.text("0123456789ABCDEF", min_size=1, max_size=64)
    who = draw(
        st.one_of(
            st.builds(Identification, decimal, st.text("0123456789", max_size=40)),
            st.builds(Identification, hexadecimal),
        )
    )
    content = st.one_of(
        st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(part.sector_size)),
        st.integers(0, 254).map(lambda byte: bytes([byte]) * part.sector_size),
        st.integers(0, part.sector_size - 1).map(
            lambda i: b"\xff" * i + b"\xfe" + b"\xff" * (part.sector_size - 1 - i)
        ),
    )
    return SavedDevice(
        who,
        part,
        BootloaderSettings(
            draw(st.sampled_from(BootPolicy)),
            draw(st.sampled_from(ProgrammingOrder)),
            draw(st.booleans()),
            draw(st.booleans()),
        ),
        draw(st.dictionaries(indices, content, max_size=5)),
        draw(st.dictionaries(indices, st.integers(0, 10**9), max_size=5)),
        draw(st.none() | st.integers(0, 2**32 - 1)),
    )


@given(devices())
def test_what_is_written_is_read(device: SavedDevice) -> None:
    """All of it; and what was read is written as the same bytes."""
    data = device.encode()
    found = SavedDevice.decode(data, ELSEWHERE)

    assert device == found
    assert data == found.encode()


def test_equal_devices_have_equal_files() -> None:
    """In whatever order their sectors were erased and programmed."""
    other = SavedDevice(
        DEVICE.identification,
        PART,
        DEVICE.settings,
        dict(sorted(DEVICE.sectors.items(), reverse=True)),
        dict(sorted(DEVICE.wear.items(), reverse=True)),
    )

    assert DEVICE.encode() == other.encode()


def test_saved_device_is_loaded_with_its_flash_and_its_wear(tmp_path: Path) -> None:
    """Nothing else is left in the folder; an older device in the file is gone."""
    path = tmp_path / "one.k60"
    save(path, SavedDevice(Identification("AA"), PARTS["MK60FN1M0"]))

    save(path, DEVICE)

    found = load(path)
    flash = found.flash(SectorPool())
    assert DEVICE == found
    assert [path] == list(tmp_path.iterdir())
    assert (dict(DEVICE.wear), dict(DEVICE.sectors)) == (flash.erase_counts, flash.contents())
    assert b"".join(DEVICE.sectors.values()) + b"\xff" == found.read(0, PART.application_start + 1)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_worst_device_is_smaller_than_the_limit(tmp_path: Path, part: Part) -> None:
    """Every sector full of noise and worn to the utmost: it is loaded again."""
    dice = random.Random(7)
    sectors = range(part.flash_size // part.sector_size)
    device = SavedDevice(
        Identification("0" * 25, "1" * 999),
        part,
        sectors={index: dice.randbytes(part.sector_size) for index in sectors},
        wear=dict.fromkeys(sectors, 10**9),
    )

    save(tmp_path / "worst.k60", device, durable=False)

    assert device == load(tmp_path / "worst.k60")


# What is refused.


def refused(data: bytes) -> str:
    """The reason for which a file's content is refused, its path having been named."""
    with pytest.raises(DeviceFileError) as caught:
        SavedDevice.decode(data, ELSEWHERE)
    assert ELSEWHERE == caught.value.path
    assert f"{ELSEWHERE}: {caught.value.reason}" == str(caught.value)
    return caught.value.reason


def with_checksum(text: bytes) -> bytes:
    """A file with this content and the checksum that is right for it."""
    return b"k60-fota device 1 " + hashlib.sha256(text).hexdigest().encode() + b"\n" + text


@pytest.mark.parametrize("data", [b"", b"\n", b"K60-fota device 1 ", b"S00600004844521B\n", DEVICE.encode()[1:]])
def test_file_of_something_else_is_refused(data: bytes) -> None:
    """The reason says how a device file begins."""
    assert "no device file, expected one that begins with 'k60-fota device'" == refused(data)


@pytest.mark.parametrize("version", [b"2", b"0", b"", b"01", b"1.0", b"x" * 1000])
def test_other_version_is_refused(version: bytes) -> None:
    """The reason names it, and the one expected; not all of it, should it be long."""
    reason = refused(DEVICE.encode().replace(b"device 1 ", b"device " + version + b" ", 1))

    assert f"version {version[:20]!r} of the format, expected 1" == reason


SMALL: Final = SavedDevice(Identification("AB"), PART, sectors={9: bytes(PART.sector_size)}, wear={9: 1}).encode()
"""A device file that is short enough to try every byte of it."""


def test_file_with_any_byte_changed_is_refused() -> None:
    """Every bit of every byte, from the first to the last."""
    for position in range(len(SMALL)):
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[position] ^= 1 << bit
            with pytest.raises(DeviceFileError):
                SavedDevice.decode(bytes(damaged), ELSEWHERE)


def test_file_that_is_cut_is_refused() -> None:
    """Anywhere."""
    for size in range(len(SMALL)):
        assert refused(SMALL[:size])


@given(st.integers(0, len(SMALL)), st.binary(min_size=1, max_size=5))
def test_file_with_bytes_too_many_is_refused(position: int, more: bytes) -> None:
    """Behind it, before it, or anywhere in it."""
    damaged = SMALL[:position] + more + SMALL[position:]

    if damaged != SMALL:
        assert refused(damaged)


def test_damaged_content_is_called_so() -> None:
    """It is a device file, though not a whole one."""
    assert "damaged: its checksum is not that of its content" == refused(SMALL[:-1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe\xfd", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5_000, "integer"),
        (b"{} {}", "Extra data"),
        (b"[]", "list indices"),
        (b"null", "not subscriptable"),
        (b'"part"', "string indices"),
        (b"{}", "'part' is missing"),
    ],
)
def test_content_that_is_no_object_is_refused_though_its_checksum_is_right(text: bytes, reason: str) -> None:
    """Whoever wrote it knew how to make one, so nothing of it is believed."""
    found = refused(with_checksum(text))

    assert found.startswith("not a device: ")
    assert reason in found


def packed(content: bytes) -> str:
    """A sector as a file has it."""
    return base64.b64encode(zlib.compress(content)).decode()


GOOD_SECTOR: Final = bytes(PART.sector_size)
STREAM: Final = zlib.compress(GOOD_SECTOR)

Change = Callable[[dict[str, Any]], object]

FORGED: Final[dict[str, tuple[Change, str]]] = {
    "part unknown": (lambda b: b.update(part="MK22"), "unknown part 'MK22'"),
    "part no text": (lambda b: b.update(part=512), "512, expected str"),
    "mcuid no text": (lambda b: b.update(mcuid=["0"]), "expected str"),
    "mcuid empty": (lambda b: b.update(mcuid=""), "MCUID ''"),
    "mcuid of other characters": (lambda b: b.update(mcuid="12#4"), "MCUID '12#4'"),
    "mcuid too long": (lambda b: b.update(mcuid="0" * 65), "expected 1 to 64"),
    "suffix no digits": (lambda b: b.update(mcuid="0" * 25, suffix="x"), "expected 25 or more"),
    "suffix behind a short one": (lambda b: b.update(mcuid="0" * 23, suffix="1"), "expected 25 or more"),
    "suffix no text": (lambda b: b.update(suffix=None), "None, expected str"),
    "policy unknown": (lambda b: b.update(policy="trusting"), "'trusting' is not a valid BootPolicy"),
    "policy a list": (lambda b: b.update(policy=[]), "[] is not a valid BootPolicy"),
    "order unknown": (lambda b: b.update(order="random"), "'random' is not a valid ProgrammingOrder"),
    "order missing": (lambda b: b.pop("order"), "'order' is missing"),
    "guard a number": (lambda b: b.update(guards_itself=1), "1, expected bool"),
    "wear a list": (lambda b: b.update(wear=[1]), "expected dict"),
    "wear negative": (lambda b: b.update(wear={"9": -1}), "wear -1"),
    "wear a fraction": (lambda b: b.update(wear={"9": 1.0}), "wear 1.0"),
    "wear true": (lambda b: b.update(wear={"9": True}), "wear True"),
    "wear beyond belief": (lambda b: b.update(wear={"9": 10**9 + 1}), "expected a number up to 1000000000"),
    "wear of no sector": (lambda b: b.update(wear={"256": 1}), "sector '256', expected a number below 256"),
    "sectors text": (lambda b: b.update(sectors="none"), "expected dict"),
    "sector behind the last": (lambda b: b.update(sectors={"256": packed(GOOD_SECTOR)}), "sector '256'"),
    "sector negative": (lambda b: b.update(sectors={"-1": packed(GOOD_SECTOR)}), "sector '-1'"),
    "sector of other digits": (lambda b: b.update(sectors={"²": packed(GOOD_SECTOR)}), "sector '²'"),
    "sector of many digits": (lambda b: b.update(sectors={"0" * 9999: packed(GOOD_SECTOR)}), "sector '000"),
    "sector named twice": (
        lambda b: b.update(sectors={"09": packed(GOOD_SECTOR), "9": packed(b"\1" * PART.sector_size)}),
        "sector '09'",
    ),
    "sector no text": (lambda b: b.update(sectors={"9": 7}), "7, expected str"),
    "sector no base64": (lambda b: b.update(sectors={"9": "!!!!"}), "base64"),
    "sector badly padded": (lambda b: b.update(sectors={"9": "eJw"}), "padding"),
    "sector no stream": (lambda b: b.update(sectors={"9": "AAAA"}), "decompressing"),
    "sector too short": (lambda b: b.update(sectors={"9": packed(GOOD_SECTOR[1:])}), "expected 2048 bytes"),
    "sector too long": (lambda b: b.update(sectors={"9": packed(GOOD_SECTOR + b"x")}), "expected 2048 bytes"),
    "sector blank": (lambda b: b.update(sectors={"9": packed(b"\xff" * PART.sector_size)}), "a blank sector"),
    "sector's stream cut": (
        lambda b: b.update(sectors={"9": base64.b64encode(STREAM[:-1]).decode()}),
        "expected 2048 bytes",
    ),
    "sector's stream damaged": (
        lambda b: b.update(sectors={"9": base64.b64encode(STREAM[:-1] + b"?").decode()}),
        "incorrect data check",
    ),
    "bytes behind a sector's stream": (
        lambda b: b.update(sectors={"9": base64.b64encode(STREAM + b"?").decode()}),
        "expected 2048 bytes",
    ),
}
"""What somebody may have changed before he made the checksum right, and what the reason must say."""


@pytest.mark.parametrize(("change", "reason"), FORGED.values(), ids=FORGED)
def test_forged_device_is_refused_though_its_checksum_is_right(change: Change, reason: str) -> None:
    """Each thing in it is checked on its own."""
    body = json.loads(DEVICE.encode().partition(b"\n")[2])
    change(body)

    found = refused(with_checksum(json.dumps(body).encode()))

    assert found.startswith("not a device: ")
    assert reason in found


def test_sector_that_unpacks_to_thousands_of_sectors_is_refused_unpacked() -> None:
    """No more of it is unpacked than a sector and a byte."""
    body = json.loads(DEVICE.encode().partition(b"\n")[2]) | {"sectors": {"9": packed(bytes(1 << 26))}}
    data = with_checksum(json.dumps(body).encode())
    tracemalloc.start()
    try:
        reason = refused(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "expected 2048 bytes" in reason
    assert peak < 1 << 23


@pytest.mark.parametrize("size", [device_file.MAX_SIZE + 1, 1 << 40])
def test_file_that_is_too_large_is_refused_unread(tmp_path: Path, size: int) -> None:
    """The reason says how much it may have."""
    path = tmp_path / "large.k60"
    path.write_bytes(SMALL)
    os.truncate(path, size)

    with pytest.raises(DeviceFileError, match=f"^{path}: more than 8388608 bytes, expected a device file$"):
        load(path)


@pytest.mark.parametrize(("name", "reason"), [("none.k60", "No such file"), (".", "not a file")])
def test_place_without_a_file_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    """In the words of the system, with the path."""
    with pytest.raises(DeviceFileError, match=reason) as caught:
        load(tmp_path / name)

    assert tmp_path / name == caught.value.path


# Writing.


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A system that takes 100 bytes of any file and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file with a device, alone in its folder."""
    path = tmp_path / "one.k60"
    save(path, DEVICE)
    return path


@pytest.mark.usefixtures("saved", "full_disk")
@pytest.mark.parametrize("durable", [True, False])
def test_write_that_fails_leaves_the_old_file_and_no_other(saved: Path, durable: bool) -> None:
    """The disk takes the beginning of it."""
    before = saved.read_bytes()

    with pytest.raises(DeviceFileError) as caught:
        save(saved, SavedDevice(Identification("BB"), PART, sectors=DEVICE.sectors), durable=durable)

    assert (saved, "File too large") == (caught.value.path, caught.value.reason)
    assert before == saved.read_bytes()
    assert [saved] == list(saved.parent.iterdir())


def test_folder_in_the_place_of_the_file_stays(tmp_path: Path) -> None:
    """The device was written beside it, and is taken away again."""
    path = tmp_path / "one.k60"
    path.mkdir()

    with pytest.raises(DeviceFileError, match="directory"):
        save(path, DEVICE)

    assert [path] == list(tmp_path.iterdir())
    assert [] == list(path.iterdir())


@pytest.mark.parametrize("path", [Path("."), Path(".."), Path("/"), Path("no/such/folder/one.k60")])
def test_place_where_no_file_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """With its name, and without a trace left behind."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DeviceFileError) as caught:
        save(path, DEVICE)

    assert path == caught.value.path
    assert [] == list(tmp_path.iterdir())
