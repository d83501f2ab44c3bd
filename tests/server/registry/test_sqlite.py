"""The SQLite registry: bad rows, foreign files, and several processes at once."""

import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fota_protocol.status import Status
from fota_server.errors import RegistryError, UnservableError
from fota_server.registry import RegistryEntry, SqliteRegistry

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


def test_a_file_put_in_its_place_is_told_and_not_followed(path: Path, registry: SqliteRegistry, tmp_path: Path) -> None:
    """SQLite would mix it with what is left of the old one, so the one that was opened counts."""
    with closing(SqliteRegistry(tmp_path / "new.sqlite")) as new:
        new.put([RegistryEntry(FIRST.mcuid, "other.s19", "22")])
    before = registry.problems
    (tmp_path / "new.sqlite").replace(path)
    (problem,) = registry.problems

    assert () == before
    assert "another file stands in its place" in problem.message
    assert FIRST == registry.find(FIRST.mcuid)


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
