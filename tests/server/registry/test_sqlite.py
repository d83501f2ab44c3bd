"""The SQLite registry: bad rows, foreign files, and several processes at once."""

import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fota_protocol.status import Status
from fota_server.errors import RegistryError, UnservableError
from fota_server.registry import RegistryEntry, SqliteRegistry
from fota_server.registry import sqlite as sqlite_module
from fota_server.registry.folder_lock import one_at_a_time

FIRST = RegistryEntry("0001100023593110965955141", "blink_1.s19", "16")
MCUID = "0011000235931109659550002"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a registry with one device is."""
    path = tmp_path / "devices.sqlite"
    with closing(SqliteRegistry(path)) as registry:
        registry.put([FIRST])
    return path


@pytest.fixture
def registry(path: Path) -> Iterator[SqliteRegistry]:
    """The registry, open."""
    with closing(SqliteRegistry(path)) as registry:
        yield registry


def write(path: Path, statement: str, *values: object) -> None:
    """What another program does to the file."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((MCUID, "", "16", None, None), "no file name"),
        ((MCUID, "a.s19", "100", None, None), "version '100', expected"),
        ((MCUID, "a.s19", "16", "K61", None), "unknown part 'K61'"),
        ((MCUID, "a.s19", "16", None, "perhaps"), "'perhaps'"),
        ((MCUID, b"a.s19", "16", None, None), "b'a.s19', expected text"),
        ((MCUID, "a.s19", b"16", None, None), "b'16', expected text"),
        ((MCUID, "a.s19", "16", b"MK60DN512", None), "b'MK60DN512', expected text"),
    ],
)
def test_a_malformed_row_refuses_only_its_device(
    path: Path, registry: SqliteRegistry, values: tuple[object, ...], reason: str
) -> None:
    """A row that anybody may have written refuses its own device, with the reason."""
    write(path, "INSERT INTO devices (mcuid, filename, version, part, handshake) VALUES (?, ?, ?, ?, ?)", *values)

    with pytest.raises(UnservableError, match=f"registry entry of {MCUID}: .*{reason}") as caught:
        registry.find(MCUID)
    assert caught.value.status is Status.UNPROPER_FILE_FORMAT
    assert registry.find(FIRST.mcuid) == FIRST


def test_a_malformed_row_is_left_out_of_the_list_and_audited(path: Path, registry: SqliteRegistry) -> None:
    """One bad row keeps nobody from seeing the others."""
    write(path, f"INSERT INTO devices (mcuid, filename, version) VALUES ('{MCUID}', '', '16')")
    (problem,) = registry.audit()

    assert [FIRST] == list(registry)
    assert problem.message == f"entry of '{MCUID}': no file name"


def test_a_row_in_lower_case_is_found_and_replaced(path: Path, registry: SqliteRegistry) -> None:
    """Hexadecimal digits mean the same in either case, whoever wrote them."""
    write(path, "INSERT INTO devices (mcuid, filename, version) VALUES ('00ab', 'a.s19', '16')")
    found = registry.find("00AB")
    registry.put([RegistryEntry("00ab", "b.s19", "17")])

    assert RegistryEntry("00AB", "a.s19", "16") == found
    assert {FIRST, RegistryEntry("00AB", "b.s19", "17")} == set(registry)


NEW = RegistryEntry(FIRST.mcuid, "other.s19", "22")


def put_in_place(path: Path, *entries: RegistryEntry) -> None:
    """What a back-up tool does."""
    with closing(SqliteRegistry(path.with_name("new.sqlite"))) as new:
        new.put(entries)
    path.with_name("new.sqlite").replace(path)


def look_until(registry: SqliteRegistry, expected: RegistryEntry) -> None:
    """Look up a device until it has this entry; until then it has its first one."""
    limit = time.monotonic() + 30
    while (found := registry.find(FIRST.mcuid)) != expected:
        assert found == FIRST
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_file_put_in_its_place_is_followed(path: Path, registry: SqliteRegistry) -> None:
    """Whole, and with nothing of the one that was opened before, whose last changes were in its log alone."""
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        rows = ((f"{number:025d}", "old.s19", "16") for number in range(5_000))
        other.executemany("INSERT INTO devices (mcuid, filename, version) VALUES (?, ?, ?)", rows)
    path.with_name("kept.sqlite").hardlink_to(path)
    put_in_place(path, NEW)
    look_until(registry, NEW)

    assert [NEW] == list(registry)
    assert () == registry.problems
    write(path, f"INSERT INTO devices (mcuid, filename, version) VALUES ('{MCUID}', 'a.s19', '16')")
    assert registry.find(MCUID) is not None
    with closing(sqlite3.connect(path)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()
    with closing(SqliteRegistry(path.with_name("kept.sqlite"))) as kept:
        assert 5_001 == len(kept)


def test_a_file_deleted_and_made_again_is_followed(path: Path, registry: SqliteRegistry) -> None:
    """As long as there is none the one that was opened is in force, and that is told."""
    path.unlink()
    found, (problem,) = registry.find(FIRST.mcuid), registry.problems
    script = (
        "import pathlib, sys\n"
        "from fota_server.registry import RegistryEntry, SqliteRegistry\n"
        "SqliteRegistry(pathlib.Path(sys.argv[1])).put([RegistryEntry(*sys.argv[2:])])\n"
    )
    fields = (NEW.mcuid, NEW.filename, NEW.version)
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, path, *fields], check=True, timeout=30)
    look_until(registry, NEW)

    assert FIRST == found
    assert "is not there any more; the one that was opened is in force" == problem.message
    assert () == registry.problems


WRITE = """
    import sqlite3, sys
    database = sqlite3.connect(sys.argv[1], isolation_level=None)
    for statement in sys.stdin:
        database.execute(statement)
        print("done", flush=True)
"""


@pytest.fixture
def write_elsewhere(path: Path) -> Iterator[Callable[[str], None]]:
    """The same as `write`, in a process that stays: within one, SQLite shares what it knows of a file."""
    command = [sys.executable, "-c", textwrap.dedent(WRITE), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def execute(statement: str) -> None:
            stdin.write(statement + "\n")
            stdin.flush()
            assert "done\n" == stdout.readline()

        yield execute
        stdin.close()


LATER = replace(FIRST, filename="later.s19")
MAKE_LATER = "UPDATE devices SET filename = 'later.s19'"


@pytest.mark.parametrize("is_opening", [False, True], ids=["unseen", "being opened"])
def test_closing_leaves_nothing_that_spoils_a_file_put_in_its_place(path: Path, is_opening: bool) -> None:
    """A back-up that comes back in the second in which the server stops is what was backed up, whole."""
    rows = [RegistryEntry(f"{number:025d}", "old.s19", "16") for number in range(300)]
    with closing(SqliteRegistry(path)) as registry:
        registry.put(rows)
    with closing(SqliteRegistry(path)) as registry:
        write(path, "VACUUM INTO ?", str(path.with_name("backup.sqlite")))
        path.with_name("kept.sqlite").hardlink_to(path)
        write(path, "UPDATE devices SET filename = 'wrong.s19' WHERE filename = 'old.s19'")
        path.with_name("backup.sqlite").replace(path)
        if is_opening:
            registry.find(FIRST.mcuid)

    with closing(SqliteRegistry(path)) as restarted:
        assert {FIRST, *rows} == set(restarted)
    with closing(SqliteRegistry(path.with_name("kept.sqlite"))) as kept:
        assert "wrong.s19" == next(iter(kept)).filename


def test_closing_waits_for_nobody_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that holds the folder, and an opening that waits for it, keep nothing from being cleaned up."""
    monkeypatch.setattr(sqlite_module, "CLOSE_TIMEOUT", 0.05)
    registry = SqliteRegistry(path)
    registry.put([FIRST])
    put_in_place(path, NEW)
    with one_at_a_time(path):
        registry.find(FIRST.mcuid)
        registry.close()

        assert [path] == list(path.parent.iterdir())


def test_a_file_that_is_back_while_another_was_looked_at_is_still_the_one_in_force(
    path: Path, registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch, write_elsewhere: Callable[[str], None]
) -> None:
    """What was opened goes on with what others write, whenever they change their mind."""
    monkeypatch.setattr(sqlite_module, "FOLLOW_INTERVAL", 0.05)
    path.with_name("kept.sqlite").hardlink_to(path)
    put_in_place(path, NEW)
    with one_at_a_time(path):  # so that the opening cannot go on
        assert FIRST == registry.find(FIRST.mcuid)
        path.with_name("kept.sqlite").replace(path)
    while (opening := registry._opening) is not None:
        opening.exception(30)
        registry.find(FIRST.mcuid)
    write_elsewhere(MAKE_LATER)

    assert LATER == registry.find(FIRST.mcuid)
    assert () == registry.problems


def test_a_file_that_lost_what_lies_beside_it_is_opened_again(
    path: Path, registry: SqliteRegistry, write_elsewhere: Callable[[str], None]
) -> None:
    """Another worker followed a file that stood there for a moment, and parted this one from its names."""
    path.rename(path.with_name("kept.sqlite"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    path.with_name("kept.sqlite").rename(path)
    write_elsewhere(MAKE_LATER)
    later = registry.find(FIRST.mcuid)
    write_elsewhere("UPDATE devices SET version = '44'")

    assert LATER == later
    assert replace(LATER, version="44") == registry.find(FIRST.mcuid)
    assert () == registry.problems


@pytest.mark.parametrize("content", [None, b""], ids=["deleted", "another"])
def test_what_was_not_checked_is_neither_made_nor_changed(
    path: Path, registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """A file that goes away between its check and its opening does not become an empty registry."""
    take_away = sqlite_module._take_leftovers_away

    def and_then(*args: Any) -> None:
        take_away(*args)
        if content is None:
            path.unlink()
        else:
            path.with_name("another").write_bytes(content)
            path.with_name("another").replace(path)

    monkeypatch.setattr(sqlite_module, "_take_leftovers_away", and_then)
    put_in_place(path, NEW)
    limit = time.monotonic() + 30
    while not registry.problems:
        assert time.monotonic() < limit
        time.sleep(0.01)

    assert FIRST == registry.find(FIRST.mcuid)
    assert content == (path.read_bytes() if path.exists() else None)


def test_several_look_ups_follow_one_file(path: Path, registry: SqliteRegistry) -> None:
    """Workers have a connection each, and none of them takes away what another has made meanwhile."""
    with closing(SqliteRegistry(path)) as other:
        for version in ("22", "23", "24"):
            put_in_place(path, replace(NEW, version=version))
            limit = time.monotonic() + 30
            while {registry.find(FIRST.mcuid), other.find(FIRST.mcuid)} != {replace(NEW, version=version)}:
                assert time.monotonic() < limit
                time.sleep(0.01)
        other.put([RegistryEntry(MCUID, "a.s19", "16")])

        assert registry.find(MCUID) is not None
    with closing(sqlite3.connect(path)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no such table: devices"),
        (b"0001100023593110965955141,a.s19,16\n" * 99, "file is not a database"),
        (None, "malformed"),
    ],
    ids=["empty", "text", "half of a database"],
)
def test_a_file_that_is_no_registry_yet_is_not_followed(
    path: Path, registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    """The one that was opened is in force, the reason is told; the next good file counts, be it the old one."""
    monkeypatch.setattr(sqlite_module, "FOLLOW_INTERVAL", 0.05)
    new = path.with_name("new.sqlite")
    with closing(SqliteRegistry(new)) as made:
        made.put(RegistryEntry(f"{number:025d}", "a.s19", "16") for number in range(1_000))
    whole = new.read_bytes()
    new.write_bytes(whole[: len(whole) // 2] if content is None else content)
    path.rename(path.with_name("kept.sqlite"))
    new.rename(path)
    limit = time.monotonic() + 30
    while not (problems := registry.problems):
        assert time.monotonic() < limit
        time.sleep(0.01)
    found = registry.find(FIRST.mcuid)
    path.with_name("kept.sqlite").replace(path)
    write(path, "UPDATE devices SET filename = 'later.s19'")
    look_until(registry, replace(FIRST, filename="later.s19"))

    assert FIRST == found
    assert "another file stands in its place" in problems[0].message
    assert reason in problems[0].message
    assert () == registry.problems


def test_a_version_written_as_a_number_is_understood(path: Path, registry: SqliteRegistry) -> None:
    """SQL without quotes around 16 means version 16."""
    write(path, f"INSERT INTO devices (mcuid, filename, version) VALUES ('{MCUID}', 'a.s19', 16)")

    assert RegistryEntry(MCUID, "a.s19", "16") == registry.find(MCUID)


def test_putting_replaces(registry: SqliteRegistry) -> None:
    """A device has one entry, the one put last."""
    registry.put([RegistryEntry(FIRST.mcuid, "blink_2.s19", "17")])

    assert [RegistryEntry(FIRST.mcuid, "blink_2.s19", "17")] == list(registry)


def test_putting_is_all_or_nothing(path: Path, registry: SqliteRegistry) -> None:
    """When one entry cannot be written, none of them is."""
    write(
        path,
        "CREATE TRIGGER full BEFORE INSERT ON devices WHEN NEW.version = 'FF' BEGIN SELECT RAISE(ABORT, 'full'); END",
    )

    with pytest.raises(RegistryError, match="full"):
        registry.put([RegistryEntry(MCUID, "a.s19", "16"), RegistryEntry("1" * 25, "a.s19", "FF")])
    assert list(registry) == [FIRST]


def test_putting_waits_for_nobody_for_ever(path: Path, registry: SqliteRegistry) -> None:
    """While another process holds the file, writing fails with a message, and reading works."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(RegistryError, match=f"{path}: database is locked"):
            registry.put([FIRST])
        assert registry.find(FIRST.mcuid) == FIRST
        other.execute("ROLLBACK")


@pytest.mark.parametrize("content", [b"SQLite format 3\x00" + bytes(84), b"neither text nor database\xff"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no database is refused at the start and left as it was."""
    path = tmp_path / "devices.sqlite"
    path.write_bytes(content)

    with pytest.raises(RegistryError, match=f"{path}: .*expected an SQLite registry"):
        SqliteRegistry(path)
    assert content == path.read_bytes()


def test_a_database_with_another_table_of_that_name_is_refused(tmp_path: Path) -> None:
    """Somebody else's devices are found out at the start, not with the first device."""
    path = tmp_path / "devices.sqlite"
    write(path, "CREATE TABLE devices (serial TEXT)")

    with pytest.raises(RegistryError, match="no such column: mcuid, expected an SQLite registry"):
        SqliteRegistry(path)


def test_a_registry_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A missing folder is told by name."""
    with pytest.raises(RegistryError, match=r"none/devices\.sqlite: unable to open database file, expected"):
        SqliteRegistry(tmp_path / "none" / "devices.sqlite")


WRITER = """
    import pathlib, sys
    from fota_server.errors import RegistryError
    from fota_server.registry import RegistryEntry, SqliteRegistry
    registry = SqliteRegistry(pathlib.Path(sys.argv[1]))
    start, written = int(sys.argv[2]), 0
    while written < 20:
        try:
            registry.put([RegistryEntry(f"{start + written:025d}", "a.s19", "16")])
        except RegistryError:
            continue  # the other one writes; its commit ends
        written += 1
    registry.close()
"""


def test_several_processes_write_while_one_reads(path: Path, registry: SqliteRegistry) -> None:
    """Nothing that any of them put is lost, and the reader sees all of it without opening again."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    writers = [subprocess.Popen([*command, str(start)]) for start in (1_000, 2_000)]
    while any(writer.poll() is None for writer in writers):
        assert registry.find(FIRST.mcuid) == FIRST

    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(registry) == 41
    assert registry.find(f"{2_019:025d}") is not None
