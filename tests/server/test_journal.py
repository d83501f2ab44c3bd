"""The journal: every session a row, whatever happens to the process."""

import contextlib
import logging
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fota_server import journal as journal_module
from fota_server.errors import JournalError
from fota_server.journal import Journal, JournalRow, read_journal

ROW = JournalRow(
    started_at=1_000_000_000.25,
    duration_s=1.5,
    peer="127.0.0.1:40000",
    mcuid="0001100023593110965955141",
    suffix="15",
    filename="blink_1.s19",
    version="16",
    image_crc="0EC74532",
    records=86,
    records_acked=86,
    bytes_sent=3_612,
    status=0,
    status_name="SUCCESSFUL",
    detail="updated",
)
STRANGER = replace(
    ROW, mcuid=None, suffix="", filename=None, version=None, image_crc=None, status=3, status_name="UNFORMATTED_MCUID"
)


class Complaints(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def logger(complaints: Complaints) -> logging.Logger:
    logger = logging.Logger("journal")
    logger.addHandler(complaints)
    return logger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk], check=False).returncode:
        pytest.skip("a small disk can be mounted by root on Linux only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_rows_come_back_as_they_were_added(path: Path, logger: logging.Logger) -> None:
    """Every field keeps its value and its type, in the order of adding."""
    with closing(Journal(path, logger)) as journal:
        journal.add(ROW)
        journal.add(STRANGER)

    assert read_journal(path) == [ROW, STRANGER]


def test_closing_commits_everything(path: Path, logger: logging.Logger) -> None:
    """Rows that wait when the journal is closed are all there, many batches of them."""
    with closing(Journal(path, logger)) as journal:
        for number in range(3 * journal_module.BATCH + 1):
            journal.add(replace(ROW, records=number))

    assert list(range(3 * journal_module.BATCH + 1)) == [row.records for row in read_journal(path)]


def test_a_journal_goes_on_where_it_was(path: Path, logger: logging.Logger) -> None:
    """Opening again keeps the rows and knows which updates succeeded."""
    other = replace(ROW, mcuid="1" * 25, status=7)
    with closing(Journal(path, logger)) as journal:
        journal.add(ROW)
        journal.add(ROW)
        journal.add(other)
        journal.add(STRANGER)
    with closing(Journal(path, logger)) as journal:
        known = [
            journal.was_updated(mcuid, "blink_1.s19", version)
            for mcuid, version in ((ROW.mcuid or "", "16"), (ROW.mcuid or "", "17"), ("1" * 25, "16"))
        ]
        journal.add(other)

    assert [True, False, False] == known
    assert [ROW, ROW, other, STRANGER, other] == read_journal(path)


def test_a_journal_can_be_read_while_it_is_written(path: Path, logger: logging.Logger) -> None:
    """A reader holds no writer up, nor the other way round."""
    with closing(Journal(path, logger)) as journal, closing(sqlite3.connect(path)) as reader:
        cursor = reader.execute("SELECT count(*) FROM sessions")
        journal.add(ROW)
        while not read_journal(path):
            pass
        cursor.close()

        assert read_journal(path) == [ROW]


WRITER = """
    import logging, pathlib, sys
    from fota_server.journal import Journal, JournalRow, read_journal
    path = pathlib.Path(sys.argv[1])
    journal = Journal(path, logging.Logger("journal"))
    number = 0
    while True:
        for _ in range(50):
            number += 1
            journal.add(JournalRow(0.0, 0.0, "", None, "", None, None, None, number, 0, 0, 0, "", ""))
        print(len(read_journal(path)), flush=True)
"""


def test_a_killed_process_loses_no_committed_row(path: Path) -> None:
    """After SIGKILL in mid-writing the file opens, and has every row that was ever seen in it, in order."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        seen = 0
        while seen < 500:
            seen = int(writer.stdout.readline())
        writer.kill()
        seen = max([seen, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
    rows = read_journal(path)

    assert len(rows) >= seen
    assert list(range(1, len(rows) + 1)) == [row.records for row in rows]


def test_rows_that_cannot_be_written_are_told_and_stop_nothing(
    path: Path, logger: logging.Logger, complaints: Complaints
) -> None:
    """A disk that takes no row costs that row and a line in the log; the next one is written."""
    with closing(Journal(path, logger)) as journal:
        with closing(sqlite3.connect(path)) as other, other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON sessions WHEN NEW.status = 3 "
                "BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
        journal.add(STRANGER)
        while not complaints.messages:
            pass
        journal.add(ROW)

    assert complaints.messages == ["journal: 1 rows lost: full"]
    assert read_journal(path) == [ROW]


def test_rows_wait_while_the_file_cannot_be_written(
    path: Path, logger: logging.Logger, complaints: Complaints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no fault of a row costs none: it is told once, tried again, and told when it is over."""
    monkeypatch.setattr(journal_module, "BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(journal_module, "RETRY_INTERVAL", 0.01)
    with closing(Journal(path, logger)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(3 * journal_module.BATCH):
            journal.add(replace(ROW, records=number))
        while not complaints.messages:
            time.sleep(0.001)
        time.sleep(0.1)
        other.execute("ROLLBACK")

    assert list(range(3 * journal_module.BATCH)) == [row.records for row in read_journal(path)]
    assert complaints.messages == [
        "journal: cannot be written (database is locked); up to 100000 rows wait for that",
        "journal: can be written again",
    ]


def test_closing_does_not_wait_for_a_file_that_cannot_be_written(
    path: Path, logger: logging.Logger, complaints: Complaints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lost then is counted."""
    monkeypatch.setattr(journal_module, "BUSY_TIMEOUT", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        with closing(Journal(path, logger)) as journal:
            other.execute("BEGIN IMMEDIATE")
            journal.add(ROW)
        other.execute("ROLLBACK")

    assert "journal: 1 rows lost: database is locked" == complaints.messages[-1]


def test_a_journal_on_a_full_disk_is_made_when_there_is_room(
    logger: logging.Logger, complaints: Complaints, small_disk: Path
) -> None:
    """A server starts without it, and every row is there in the end."""
    path, filler = small_disk / "journal.sqlite", small_disk / "filler"
    fill(filler)
    with closing(Journal(path, logger)) as journal:
        journal.add(ROW)
        was_updated = journal.was_updated("1" * 25, "blink_1.s19", "16")
        filler.unlink()
        wait_for(lambda: "journal: can be written again" in complaints.messages)

    assert not was_updated
    assert [ROW] == read_journal(path)


def test_a_journal_on_a_read_only_disk_is_written_when_it_no_longer_is(
    logger: logging.Logger, complaints: Complaints, small_disk: Path
) -> None:
    """What was opened on such a disk is opened anew."""
    path = small_disk / "journal.sqlite"
    Journal(path, logger).close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with closing(Journal(path, logger)) as journal:
        journal.add(ROW)
        wait_for(lambda: bool(complaints.messages))
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        wait_for(lambda: "journal: can be written again" in complaints.messages)

    assert [ROW] == read_journal(path)


def test_rows_of_a_full_disk_are_written_when_there_is_room(
    logger: logging.Logger, complaints: Complaints, small_disk: Path
) -> None:
    """It fills up under the server, and no row is lost."""
    path, filler = small_disk / "journal.sqlite", small_disk / "filler"
    with closing(Journal(path, logger)) as journal:
        journal.add(ROW)
        wait_for(lambda: bool(read_journal(path)))
        fill(filler)
        for number in range(2_000):
            journal.add(replace(ROW, records=number))
        wait_for(lambda: bool(complaints.messages))
        filler.unlink()
        wait_for(lambda: len(complaints.messages) > 1)

    assert 2_001 == len(read_journal(path))
    assert "database or disk is full" in complaints.messages[0]
    assert ["journal: can be written again"] == complaints.messages[1:]


def fill(path: Path) -> None:
    """Take all room that the disk has."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_adding_never_blocks(
    path: Path, logger: logging.Logger, complaints: Complaints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When rows come faster than they can be written the rest is dropped, counted and told."""
    monkeypatch.setattr(journal_module, "QUEUE_LIMIT", 10)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        with closing(Journal(path, logger)) as journal:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(100):
                journal.add(ROW)
            other.execute("ROLLBACK")
        kept = len(read_journal(path))

    assert 10 <= kept < 100
    assert complaints.messages == [
        "journal: rows come faster than they can be written; some are dropped",
        f"journal: {100 - kept} rows were dropped",
    ]


def test_closing_leaves_no_thread(path: Path, logger: logging.Logger) -> None:
    """The writing thread ends with the journal."""
    before = threading.active_count()
    Journal(path, logger).close()

    assert before == threading.active_count()


def test_a_journal_in_a_folder_that_is_not_there_is_an_error(tmp_path: Path, logger: logging.Logger) -> None:
    """What cannot be made is told by name."""
    with pytest.raises(JournalError, match=r"journal .*/none/journal\.sqlite: unable to open database file"):
        Journal(tmp_path / "none" / "journal.sqlite", logger)


@pytest.mark.parametrize("content", [b"no database, but longer than a header of one would be" * 4, b"\x00" * 4096])
def test_a_foreign_file_is_refused(path: Path, logger: logging.Logger, content: bytes) -> None:
    """A file of somebody else's is neither overwritten nor read."""
    path.write_bytes(content)

    with pytest.raises(JournalError, match=r"file is not a database, expected the journal of a server"):
        Journal(path, logger)
    assert content == path.read_bytes()
    with pytest.raises(JournalError, match="expected the journal of a server"):
        read_journal(path)


def test_a_database_with_another_table_of_that_name_is_refused(path: Path, logger: logging.Logger) -> None:
    """It is found out at the start, not with the first session."""
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE sessions (mcuid TEXT, status INTEGER)")

    with pytest.raises(JournalError, match="no such column: started_at, expected the journal of a server"):
        Journal(path, logger)


def test_reading_makes_no_journal(path: Path) -> None:
    """A journal that is not there is an error, and is still not there afterwards."""
    with pytest.raises(JournalError, match="no such file"):
        read_journal(path)
    assert not path.exists()
