"""What every registry does, whatever it is kept in."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fota_protocol.server import Handshake
from fota_server.errors import KnownDeviceError, RegistryError
from fota_server.registry import Registry, RegistryEntry, SqliteRegistry, TextRegistry, format_line, open_registry
from fota_server.registry.folder_lock import one_at_a_time

PLAIN = RegistryEntry("0001100023593110965955141", "blink_1.s19", "16")
FULL = RegistryEntry(
    "0011000235931109659550002",
    "folder/blink_2.s19",
    "1a",
    part="twr-k60n512",
    handshake=Handshake.WAIT,
    pack=True,
    once=True,
)
HEXADECIMAL = RegistryEntry("00ab" * 16, "blink_1.s19", "F")


def line(entry: RegistryEntry) -> str:
    return format_line(entry).decode() + "\n"


def put_into_text(path: Path, *entries: RegistryEntry) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text("".join(map(line, entries)))
    os.utime(temporary, (0, 0))  # files' clocks tick slowly: it is renamed some time after it was written
    temporary.replace(path)


def put_into_sqlite(path: Path, *entries: RegistryEntry) -> None:
    with closing(SqliteRegistry(path)) as registry:
        registry.put(entries)


Put = Callable[..., None]


@pytest.fixture(params=[put_into_text, put_into_sqlite])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Registry, Callable[..., None]]]:
    """A registry of three devices, and a way to write to where it is kept, as another program would."""
    put: Put = request.param
    path = tmp_path / ("devices.txt" if put is put_into_text else "devices.sqlite")
    put(path, PLAIN, FULL, HEXADECIMAL)
    registry = open_registry(path)
    yield registry, lambda *entries: put(path, *entries)
    registry.close()


Kept = tuple[Registry, Callable[..., None]]


@pytest.mark.parametrize("entry", [PLAIN, FULL, HEXADECIMAL])
def test_a_device_is_found_with_everything_that_was_said_of_it(kept: Kept, entry: RegistryEntry) -> None:
    """What was put comes back by MCUID, field for field."""
    registry, _ = kept

    assert entry == registry.find(entry.mcuid)


def test_a_stranger_is_not_found(kept: Kept) -> None:
    """An unknown MCUID is None, not an error."""
    registry, _ = kept

    assert registry.find("9" * 25) is None
    assert registry.find("") is None


def test_a_registry_counts_and_lists_its_devices(kept: Kept) -> None:
    """Length and iteration tell of every device once."""
    registry, _ = kept

    assert len(registry) == 3
    assert {PLAIN, FULL, HEXADECIMAL} == set(registry)


def test_a_good_registry_has_no_problems(kept: Kept) -> None:
    """Nothing is reported where nothing is wrong."""
    registry, _ = kept

    assert registry.problems == ()
    assert registry.audit() == ()


def test_putting_adds_and_replaces(kept: Kept) -> None:
    """A device has one entry, the one put last; the others stay."""
    registry, _ = kept
    new, changed = RegistryEntry("1" * 25, "new.s19", "1"), replace(FULL, filename="other.s19", once=False)
    registry.put([new, changed])

    assert {PLAIN, changed, HEXADECIMAL, new} == set(registry)


def test_removing_leaves_the_others(kept: Kept) -> None:
    """Removed devices are unknown, and removing an unknown one changes nothing."""
    registry, _ = kept
    registry.remove([PLAIN.mcuid, HEXADECIMAL.mcuid, "9" * 25])

    assert [FULL] == list(registry)
    assert registry.find(PLAIN.mcuid) is None


def test_putting_tells_how_many_were_there(kept: Kept) -> None:
    """Devices that are replaced are counted, each once."""
    registry, _ = kept
    new = RegistryEntry("1" * 25, "new.s19", "1")

    assert 2 == registry.put([new, FULL, HEXADECIMAL, FULL])
    assert 0 == registry.put([RegistryEntry("2" * 25, "new.s19", "1")])


def test_nothing_is_removed_where_one_must_be_known_and_is_not(kept: Kept) -> None:
    """All or none, and the first unknown one is named."""
    registry, _ = kept

    with pytest.raises(RegistryError, match=f"^registry {registry.name}: no device {'9' * 25}; nothing is removed"):
        registry.remove([PLAIN.mcuid, "9" * 25], may_be_unknown=False)
    assert 3 == len(registry)


def test_a_new_device_replaces_none(kept: Kept) -> None:
    """Without leave to replace, a device that is there fails the change as a whole."""
    registry, _ = kept

    with pytest.raises(KnownDeviceError, match=f"{FULL.mcuid} is there already"):
        registry.put([RegistryEntry("1" * 25, "new.s19", "1"), FULL], replace=False)
    assert {PLAIN, FULL, HEXADECIMAL} == set(registry)


def test_what_one_writes_another_reads(kept: Kept) -> None:
    """A registry that was changed is the same to whoever opens it afterwards."""
    registry, _ = kept
    registry.put([replace(PLAIN, version="22")])
    registry.remove([FULL.mcuid])

    with closing(open_registry(Path(registry.name))) as other:
        assert set(registry) == set(other) == {replace(PLAIN, version="22"), HEXADECIMAL}


def test_a_change_is_seen_without_opening_again(kept: Kept) -> None:
    """Another program's change is in force at the next look-up."""
    registry, put = kept
    changed = replace(PLAIN, filename="blink_2.s19", version="17")
    assert registry.find(PLAIN.mcuid) == PLAIN
    put(changed, FULL)

    assert changed == registry.find(PLAIN.mcuid)


def test_readings_count_what_another_program_replaced(kept: Kept) -> None:
    """Whoever wants to know whether a new file is in force sees the number grow."""
    registry, _ = kept
    before, path = registry.readings, Path(registry.name)
    new = path.with_name("new" + path.suffix)
    (put_into_text if isinstance(registry, TextRegistry) else put_into_sqlite)(new, FULL)
    new.replace(path)
    limit = time.monotonic() + 30
    while registry.find(PLAIN.mcuid) is not None:
        assert before == registry.readings
        assert time.monotonic() < limit
        time.sleep(0.01)

    assert before + 1 == registry.readings


def test_a_registry_behind_a_link_is_locked_where_it_lies(tmp_path: Path) -> None:
    """Two programs that name one file by different ways do not change it at once."""
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "devices.sqlite"
    link.symlink_to(tmp_path / "devices.sqlite")
    with (
        one_at_a_time(tmp_path / "devices.sqlite"),
        pytest.raises(RegistryError, match="locked by another process"),
        one_at_a_time(link, 0.0),
    ):
        pytest.fail("not locked")


def test_a_registry_may_be_written_to_while_a_list_is_read(kept: Kept) -> None:
    """Iteration neither blocks a writer nor fails because of one."""
    registry, put = kept
    entries = iter(registry)
    first = next(entries)
    put(PLAIN, FULL, HEXADECIMAL)

    assert len([first, *entries]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mcuid": "x"}, "MCUID 'x', expected 25 decimal or 1 to 64 hexadecimal digits"),
        ({"mcuid": ""}, "MCUID '', expected"),
        ({"mcuid": "0" * 65}, "MCUID .*, expected 25 decimal or 1 to 64"),
        ({"mcuid": "../../etc"}, "MCUID '../../etc', expected"),
        ({"filename": ""}, "no file name"),
        ({"version": "100"}, "version '100', expected 1 or 2 hexadecimal digits"),
        ({"version": ""}, "version '', expected"),
        ({"part": "K61"}, "unknown part 'K61', expected one of MK60DN512"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_not_made(change: dict[str, str], message: str) -> None:
    """Entries are checked when they are made, so that no registry holds a bad one."""
    with pytest.raises(ValueError, match="^" + message):
        replace(PLAIN, **change)  # type: ignore[arg-type]  # only strings are replaced


def test_the_kind_of_a_registry_is_seen_by_content(tmp_path: Path) -> None:
    """An SQLite file is one whatever its name; a text is one in spite of its name."""
    put_into_sqlite(tmp_path / "devices.txt", PLAIN)
    (tmp_path / "devices.sqlite").write_text(line(PLAIN))
    with (
        closing(open_registry(tmp_path / "devices.txt")) as sqlite,
        closing(open_registry(tmp_path / "devices.sqlite")) as text,
    ):
        assert isinstance(sqlite, SqliteRegistry)
        assert isinstance(text, TextRegistry)
        assert sqlite.find(PLAIN.mcuid) == text.find(PLAIN.mcuid) == PLAIN
