"""The firmware store: which files it gives, which never, and how often it reads them."""

import os
from pathlib import Path

import pytest
from tests.server.conftest import MCUID, records_of

import fota_fixtures
from fota_protocol.image import FirmwareImage
from fota_protocol.status import Status
from fota_server import firmware as firmware_module
from fota_server.errors import TemporaryError, UnservableError
from fota_server.firmware import FirmwareStore
from fota_server.registry import RegistryEntry


def entry(filename: str, *, part: str | None = None, pack: bool = False) -> RegistryEntry:
    return RegistryEntry(MCUID, filename, "16", part=part, pack=pack)


def load(store: FirmwareStore, wanted: RegistryEntry) -> FirmwareImage:
    """What the listener does, in one go; raises `UnservableError`."""
    key = store.key(wanted)
    image = store.cached(key)
    if image is None:
        store.remember(key, store.read(key))
        image = store.cached(key)
    assert image is not None
    return image


def refusal(store: FirmwareStore, wanted: RegistryEntry) -> tuple[Status, str]:
    with pytest.raises(UnservableError) as caught:
        load(store, wanted)
    return caught.value.status, str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A firmware folder with blink_1.s19, beside it a file that nobody may have."""
    folder = tmp_path / "bin"
    (folder / "sub").mkdir(parents=True)
    (folder / "blink_1.s19").write_bytes(fota_fixtures.read("blink_1.s19"))
    (tmp_path / "secret.s19").write_bytes(fota_fixtures.read("blink_2.s19"))
    (tmp_path / "bin2").mkdir()
    (tmp_path / "bin2" / "secret.s19").write_bytes(fota_fixtures.read("blink_2.s19"))
    return folder


@pytest.fixture
def store(folder: Path) -> FirmwareStore:
    return FirmwareStore(folder)


def test_an_image_is_the_files_records_in_their_order(store: FirmwareStore) -> None:
    """What is sent are the data records of the file, no more and no fewer."""
    assert records_of("blink_1.s19") == load(store, entry("blink_1.s19")).frames


@pytest.mark.parametrize("name", ["sub/below.s19", "./blink_1.s19", "sub/../blink_1.s19", "link_inside.s19"])
def test_files_within_the_folder_are_found(folder: Path, store: FirmwareStore, name: str) -> None:
    """Folders below, detours and links are allowed as long as they end inside."""
    (folder / "sub" / "below.s19").write_bytes(fota_fixtures.read("blink_1.s19"))
    (folder / "link_inside.s19").symlink_to(folder / "blink_1.s19")

    assert records_of("blink_1.s19") == load(store, entry(name)).frames


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    """An operator may point the folder's name at the release in force."""
    (tmp_path / "current").symlink_to(folder)

    assert records_of("blink_1.s19") == load(FirmwareStore(tmp_path / "current"), entry("blink_1.s19")).frames


@pytest.mark.parametrize(
    "name",
    ["../secret.s19", "sub/../../secret.s19", "{}/secret.s19", "link.s19", "linked/secret.s19", "../bin2/secret.s19"],
)
def test_no_path_leads_outside(folder: Path, store: FirmwareStore, tmp_path: Path, name: str) -> None:
    """Dots, absolute paths, links to files, links to folders and folders of a similar name are refused."""
    (folder / "link.s19").symlink_to(tmp_path / "secret.s19")
    (folder / "linked").symlink_to(tmp_path)
    status, message = refusal(store, entry(name.format(tmp_path)))

    assert status is Status.UNABLE_BUFFERING_CODE
    assert message.endswith("leads outside the firmware folder")


def test_a_name_that_was_served_may_lead_outside_later(folder: Path, store: FirmwareStore, tmp_path: Path) -> None:
    """What a name led to before is nothing to rely on, also where a folder moves with all its files."""
    for name in ("app.s19", "new/app.s19"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(fota_fixtures.read("blink_1.s19"))
        assert records_of("blink_1.s19") == load(store, entry(name)).frames

    (folder / "app.s19").rename(tmp_path / "app.s19")
    (folder / "app.s19").symlink_to(tmp_path / "app.s19")
    (folder / "new").rename(tmp_path / "outside")
    (folder / "new").symlink_to(tmp_path / "outside")

    for name in ("app.s19", "new/app.s19"):
        _, message = refusal(store, entry(name))
        assert message.endswith("leads outside the firmware folder")


def test_a_link_to_the_release_in_force_may_turn(folder: Path, store: FirmwareStore) -> None:
    """A release that gets another name, and another one in its place: the link says which is meant."""
    for release, image in (("r1", "blink_1.s19"), ("r2", "blink_2.s19")):
        (folder / release).mkdir()
        (folder / release / "app.s19").write_bytes(fota_fixtures.read(image))
    (folder / "current").symlink_to("r1")
    old = store.key(entry("current/app.s19"))
    (folder / "r1").rename(folder / "r0")
    (folder / "r2").rename(folder / "r1")
    (folder / "current").unlink()
    (folder / "current").symlink_to("r0")

    assert records_of("blink_1.s19") == load(store, entry("current/app.s19")).frames
    assert old != store.key(entry("current/app.s19"))


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("none.s19", Status.MISSED_FILENAME, "firmware none.s19: No such file or directory"),
        ("sub", Status.MISSED_FILENAME, "firmware sub: not a file"),
        (".", Status.MISSED_FILENAME, "firmware .: not a file"),
        ("pipe", Status.MISSED_FILENAME, "firmware pipe: not a file"),
        ("blink_1.s19/x", Status.MISSED_FILENAME, "firmware blink_1.s19/x: Not a directory"),
        ("x" * 300, Status.MISSED_FILENAME, "File name too long"),
        ("loop", Status.MISSED_FILENAME, "firmware loop: Too many levels of symbolic links"),
        ("a\0b", Status.UNABLE_BUFFERING_CODE, "firmware: NUL in the file name"),
    ],
)
def test_what_is_no_file_is_refused(
    folder: Path, store: FirmwareStore, name: str, status: Status, message: str
) -> None:
    """Names that lead to no regular file are refused by reason, and nothing is opened or waited for."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    found, said = refusal(store, entry(name))

    assert found is status
    assert message in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(folder: Path, store: FirmwareStore) -> None:
    """Missing permission is told as such."""
    (folder / "blink_1.s19").chmod(0)

    assert refusal(store, entry("blink_1.s19")) == (
        Status.UNABLE_BUFFERING_CODE,
        "firmware blink_1.s19: Permission denied",
    )


BROKEN = [fixture for fixture in fota_fixtures.manifest() if fixture.folder == "broken"]
STATUS_OF_REASON = {
    "checksum": Status.INVALID_CODE_CHUNK,
    "syntax": Status.INVALID_CODE_CHUNK,
    "length": Status.INVALID_CODE_CHUNK,
    "overlap": Status.INVALID_CODE_CHUNK,
    "range": Status.INVALID_CODE_CHUNK,
    "termination": Status.BUFFERING_CODE_INCOMPLETE,
    "count": Status.BUFFERING_CODE_INCOMPLETE,
    "empty": Status.BUFFERING_CODE_INCOMPLETE,
}
STATUS_OF_FILE = {
    "data_after_termination.s19": Status.INVALID_CODE_CHUNK,
    "bad_checksum.hex": Status.UNABLE_BUFFERING_CODE,
    "cut.elf": Status.BUFFERING_CODE_INCOMPLETE,
}


@pytest.mark.parametrize("fixture", BROKEN, ids=[fixture.name for fixture in BROKEN])
def test_every_broken_fixture_is_refused_for_its_reason(
    folder: Path, store: FirmwareStore, fixture: fota_fixtures.Fixture
) -> None:
    """A server that knows the part refuses what it can know to be broken, by status and line; the rest is served."""
    (folder / fixture.name).write_bytes(fixture.path.read_bytes())
    finding = fixture.findings[0]
    wanted = entry(fixture.name, part="MK60DN512")

    if finding.stage is fota_fixtures.Stage.START:
        assert fixture.image is not None
        assert fixture.image.crc32 == load(store, wanted).crc32
    else:
        status, message = refusal(store, wanted)
        line = f"line {finding.line}: " if finding.line and fixture.name != "bad_checksum.hex" else ""
        assert STATUS_OF_FILE.get(fixture.name, STATUS_OF_REASON[finding.reason]) is status
        assert message.startswith(f"firmware {fixture.name}: {line}")


ODD = [fixture for fixture in fota_fixtures.manifest() if fixture.folder in ("odd", "firmware")]


@pytest.mark.parametrize("fixture", ODD, ids=[fixture.name for fixture in ODD])
def test_every_good_or_odd_fixture_is_served(
    folder: Path, store: FirmwareStore, fixture: fota_fixtures.Fixture
) -> None:
    """Whatever is legal is served whole; what is unusual about it is a warning."""
    (folder / fixture.name).write_bytes(fixture.path.read_bytes())
    image = load(store, entry(fixture.name, part="MK60DN512"))

    assert fixture.image is not None
    assert fixture.image.crc32 == image.crc32
    assert (fixture.expect is fota_fixtures.Verdict.WARNED) == bool(image.warnings)


def test_a_file_that_may_be_cut_is_served_on_request(folder: Path) -> None:
    """`allow_unterminated` serves it, with a warning."""
    (folder / "cut.s19").write_bytes(fota_fixtures.read("no_termination.s19"))
    image = load(FirmwareStore(folder, allow_unterminated=True), entry("cut.s19"))

    assert image.warnings == ("no termination record",)


def test_the_range_is_that_of_the_device(folder: Path, store: FirmwareStore) -> None:
    """The same file fits one part and not another, and is served where nothing is known of the part."""
    (folder / "above.s19").write_bytes(fota_fixtures.read("above_flash.s19"))
    status, message = refusal(store, entry("above.s19", part="MK60DN512"))

    assert status is Status.INVALID_CODE_CHUNK
    assert "expected bytes in the application flash of MK60DN512, [0x00004000, 0x00080000)" in message
    assert load(store, entry("above.s19", part="MK60FN1M0")).crc32 == load(store, entry("above.s19")).crc32


def test_packing_gives_the_same_bytes_in_fewer_records(store: FirmwareStore) -> None:
    """A packed image is another image of the same content."""
    plain, packed = load(store, entry("blink_1.s19")), load(store, entry("blink_1.s19", pack=True))

    assert plain.crc32 == packed.crc32
    assert len(packed.frames) < len(plain.frames) / 10


def test_a_file_is_read_once(folder: Path, store: FirmwareStore) -> None:
    """All sessions share one image as long as the file does not change."""
    first = load(store, entry("blink_1.s19"))

    assert first is load(store, entry("blink_1.s19"))
    assert first is load(store, entry("sub/../blink_1.s19"))


def test_a_refusal_is_remembered_too(folder: Path, store: FirmwareStore) -> None:
    """A broken file is not parsed for every device that asks for it; each is told why by an error of its own."""
    (folder / "bad.s19").write_bytes(fota_fixtures.read("bad_checksum.s19"))
    first = refusal(store, entry("bad.s19"))
    with pytest.raises(UnservableError) as one:
        store.cached(store.key(entry("bad.s19")))
    with pytest.raises(UnservableError) as two:
        store.cached(store.key(entry("bad.s19")))

    assert first == (one.value.status, str(one.value))
    assert one.value is not two.value


def test_a_changed_file_is_read_again(folder: Path, store: FirmwareStore) -> None:
    """The next session gets the new content; a session that goes on keeps the old."""
    old = load(store, entry("blink_1.s19"))
    replacement = folder / "new"
    replacement.write_bytes(fota_fixtures.read("blink_2.s19"))
    os.utime(replacement, (1, 1))
    replacement.replace(folder / "blink_1.s19")
    new = load(store, entry("blink_1.s19"))

    assert records_of("blink_1.s19") == old.frames
    assert records_of("blink_2.s19") == new.frames


def test_a_mended_file_is_served(folder: Path, store: FirmwareStore) -> None:
    """A refusal lasts as long as the file that earned it."""
    (folder / "a.s19").write_bytes(fota_fixtures.read("bad_checksum.s19"))
    refusal(store, entry("a.s19"))
    (folder / "a.s19").write_bytes(fota_fixtures.read("blink_1.s19") + b"\n")

    assert records_of("blink_1.s19") == load(store, entry("a.s19")).frames


def test_a_file_that_vanishes_before_it_is_read_is_refused(folder: Path, store: FirmwareStore) -> None:
    """Between the look-up and the reading a file may go."""
    key = store.key(entry("blink_1.s19"))
    (folder / "blink_1.s19").unlink()
    found = store.read(key)

    assert isinstance(found, UnservableError)
    assert str(found) == "firmware blink_1.s19: No such file or directory"


def test_a_file_that_is_written_while_it_is_read_is_not_judged(
    folder: Path, store: FirmwareStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device may try again: what was read is neither the old file nor the new one."""
    key, path = store.key(entry("blink_1.s19")), folder / "blink_1.s19"
    whole, fstat = path.read_bytes(), os.fstat
    path.write_bytes(whole[:600])
    calls = []

    def write_on(descriptor: int) -> os.stat_result:
        calls.append(descriptor)
        if len(calls) == 2:
            path.write_bytes(whole)
        return fstat(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", write_on)
        found = store.read(key)

    assert isinstance(found, TemporaryError)
    assert "firmware blink_1.s19: changed while it was read" == str(found)


def test_what_was_used_least_recently_is_forgotten(
    folder: Path, store: FirmwareStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has a limit in bytes; the newest image stays whatever its size."""
    size = len(fota_fixtures.read("blink_1.s19"))
    monkeypatch.setattr(firmware_module, "CACHE_BYTES", 2 * size)
    for name in ("a.s19", "b.s19", "c.s19"):
        (folder / name).write_bytes(fota_fixtures.read("blink_1.s19"))
    first, second = load(store, entry("a.s19")), load(store, entry("b.s19"))
    load(store, entry("a.s19"))
    load(store, entry("c.s19"))

    assert first is load(store, entry("a.s19"))
    assert second is not load(store, entry("b.s19"))


def test_a_file_too_large_is_not_read_whole(
    folder: Path, store: FirmwareStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file beyond the limit is refused."""
    monkeypatch.setattr("fota_server.firmware.MAX_FILE_SIZE", 1_000)
    monkeypatch.setattr("fota_protocol.formats.MAX_FILE_SIZE", 1_000)

    assert refusal(store, entry("blink_1.s19")) == (
        Status.UNABLE_BUFFERING_CODE,
        "firmware blink_1.s19: 1001 bytes, expected at most 1000",
    )


def test_a_replaced_file_of_equal_size_and_time_is_read_again(folder: Path, store: FirmwareStore) -> None:
    """Copying with times kept, as deployments do, must not leave the old firmware in force."""
    first = load(store, entry("blink_1.s19"))
    path = folder / "blink_1.s19"
    status = path.stat()
    other = folder / "new"
    other.write_bytes(path.read_bytes().replace(b"S0", b"S0", 1))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)

    again = load(store, entry("blink_1.s19"))

    assert again is not first


def test_what_could_not_be_read_is_tried_again(
    folder: Path, store: FirmwareStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortage of descriptors, or a disk that failed once, is not held against the file."""
    key = store.key(entry("blink_1.s19"))

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", fail)
        found = store.read(key)
    store.remember(key, found)

    assert isinstance(found, TemporaryError)
    assert store.cached(key) is None
