"""Logs: names, formats, and what never becomes a file."""

import contextlib
import hashlib
import io
import json
import logging
import logging.handlers
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from fota_server import logs as logs_module
from fota_server.errors import ConfigError
from fota_server.logs import CustomLogger, SessionLog, SessionLogs, close_log, open_server_log

MCUID = "0001100023593110965955141"
STARTED = time.mktime((2026, 3, 9, 7, 5, 59, 0, 0, -1)) + 0.25
NAME = f"{MCUID}-09-03-26_07-05.txt"


@contextlib.contextmanager
def server_log(folder: Path, *, as_json: bool = False, console: TextIO | None = None) -> Iterator[logging.Logger]:
    logger = open_server_log(folder, as_json=as_json, console=console)
    try:
        yield logger
    finally:
        close_log(logger)


def write_sessions(folder: Path, *logs: SessionLog) -> None:
    with server_log(folder) as logger, contextlib.closing(SessionLogs(folder, logger)) as sessions:
        for log in logs:
            sessions.write(log)


def session_log(mcuid: str = MCUID, *messages: str, started: float = STARTED) -> SessionLog:
    log = SessionLog(mcuid, started)
    for message in messages or ("a line",):
        log.add(started, message)
    return log


def test_the_server_log_has_the_reference_servers_name_and_format(tmp_path: Path) -> None:
    """`otaserver.log` has time, level in eight columns, and message."""
    with server_log(tmp_path / "new" / "folder") as logger:
        logger.info("one")
        logger.warning("two %s", "2")

    lines = (tmp_path / "new" / "folder" / "otaserver.log").read_text().splitlines()
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert len(lines) == 2
    assert re.fullmatch(f"{moment} INFO     one", lines[0])
    assert re.fullmatch(f"{moment} WARNING  two 2", lines[1])


def test_the_server_log_is_rotated_at_midnight_and_three_are_kept(tmp_path: Path) -> None:
    """The handler has the reference server's settings."""
    with server_log(tmp_path) as logger:
        (handler,) = logger.handlers

        assert isinstance(handler, logging.handlers.TimedRotatingFileHandler)
        assert (handler.when, handler.backupCount) == ("MIDNIGHT", 3)


def test_rotation_keeps_three_old_logs(tmp_path: Path) -> None:
    """After five midnights there are the log and the last three."""
    with server_log(tmp_path) as logger:
        (handler,) = logger.handlers
        assert isinstance(handler, logging.handlers.TimedRotatingFileHandler)
        for day in range(5):
            logger.info("day %d", day)
            handler.rolloverAt -= day * 86_400  # each rotated file is named after a day of its own
            handler.doRollover()

    assert len(list(tmp_path.glob("otaserver.log.*"))) == 3


def test_a_json_log_is_one_object_a_line(tmp_path: Path) -> None:
    """Line ends in a message stay within its object; an exception comes as its traceback."""
    with server_log(tmp_path, as_json=True) as logger:
        logger.warning("two\nlines and %s", '"quotes"')
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("failed")

    first, second = map(json.loads, (tmp_path / "otaserver.log").read_text().splitlines())
    assert {"time", "level", "message"} == set(first)
    assert (first["level"], first["message"]) == ("WARNING", 'two\nlines and "quotes"')
    assert "ValueError: why" in second["traceback"]


def test_the_console_gets_the_same_lines(tmp_path: Path) -> None:
    """What goes to the log goes to the console, in the same format."""
    console = io.StringIO()
    with server_log(tmp_path, console=console) as logger:
        logger.info("hello")

    assert (tmp_path / "otaserver.log").read_text() == console.getvalue()


def test_a_console_that_nobody_reads_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe costs its lines; the log file has them all."""
    monkeypatch.setattr(logs_module, "CONSOLE_TIMEOUT", 0.1)
    read, write = os.pipe()
    with open(write, "w") as console:
        with server_log(tmp_path, console=console) as logger:
            for _ in range(5_000):
                logger.info("a line of some length, so that a pipe is full soon")
        os.close(read)  # which lets the thread that writes go
        with contextlib.suppress(BrokenPipeError):
            console.close()

    assert (tmp_path / "otaserver.log").read_text().count("\n") == 5_000


def test_two_servers_of_one_process_have_separate_logs(tmp_path: Path) -> None:
    """Each server's log is its own, and none goes to Python's root logger."""
    with server_log(tmp_path / "a") as one, server_log(tmp_path / "b") as two:
        one.info("one")
        two.info("two")

    assert (tmp_path / "a" / "otaserver.log").read_text().endswith("one\n")
    assert (tmp_path / "b" / "otaserver.log").read_text().count("\n") == 1


def test_a_log_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in the folder's place is told by name."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"log folder .*/file/logs: Not a directory"):
        open_server_log(tmp_path / "file" / "logs", as_json=False, console=None)
    with pytest.raises(ConfigError, match=r"log folder .*/file: File exists"):
        open_server_log(tmp_path / "file", as_json=False, console=None)


def test_a_session_log_has_the_reference_servers_name_and_format(tmp_path: Path) -> None:
    """`<mcuid>-<dd-mm-yy_HH-MM>.txt` after the start of the session, lines as in the server's log."""
    write_sessions(tmp_path, session_log(MCUID, "first", "second"))

    assert (tmp_path / NAME).read_text() == (
        "2026-03-09 07:05:59,250 INFO     first\n2026-03-09 07:05:59,250 INFO     second\n"
    )


def test_sessions_of_the_same_minute_have_files_of_their_own(tmp_path: Path) -> None:
    """The second session of a device within a minute is written beside the first, also by another process."""
    write_sessions(tmp_path, session_log(MCUID, "first"), session_log(MCUID, "second", started=STARTED + 0.5))
    write_sessions(tmp_path, session_log(MCUID, "third"), session_log(MCUID, "later", started=STARTED + 1))

    written = {path.name: path.read_text().split()[-1] for path in tmp_path.glob(f"{MCUID}-*.txt")}
    assert {
        f"{MCUID}-09-03-26_07-05.txt": "first",
        f"{MCUID}-09-03-26_07-05_2.txt": "second",
        f"{MCUID}-09-03-26_07-05_3.txt": "third",
        f"{MCUID}-09-03-26_07-06.txt": "later",
    } == written


def test_names_that_others_took_are_passed_over(tmp_path: Path) -> None:
    """Also when they appear between two of ours, and without trying all of them each time."""
    for number in ("", "_2", "_4"):
        (tmp_path / NAME.replace(".txt", f"{number}.txt")).write_text("another process's\n")
    write_sessions(tmp_path, session_log(MCUID, "first"), session_log(MCUID, "second"))

    ours = [path.name for path in tmp_path.glob(f"{MCUID}-*.txt") if "another" not in path.read_text()]
    assert [NAME.replace(".txt", "_3.txt"), NAME.replace(".txt", "_5.txt")] == sorted(ours)


def test_more_logs_than_can_be_written_are_counted_and_not_said_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's log is not filled by what the disk does not take."""
    monkeypatch.setattr(logs_module, "QUEUE_LIMIT", 1)
    blocker = threading.Event()
    with server_log(tmp_path) as logger, contextlib.closing(SessionLogs(tmp_path, logger)) as sessions:
        monkeypatch.setattr(sessions, "_file", lambda log: blocker.wait() and (tmp_path / "any").open("a"))
        for _ in range(100):
            sessions.write(session_log())
        blocker.set()

    assert 4 <= (tmp_path / "otaserver.log").read_text().count("are dropped") <= 7


def test_files_of_one_minute_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that comes again and again is appended to the last of them."""
    monkeypatch.setattr(logs_module, "SAME_MINUTE", 2)
    write_sessions(tmp_path, *(session_log(MCUID, f"line {number}") for number in range(5)))

    assert [1, 4] == sorted(path.read_text().count("\n") for path in tmp_path.glob(f"{MCUID}-*.txt"))


@pytest.mark.parametrize("mcuid", ["../../etc/passwd", "/absolute", "..", "", "a/b", "a\0b", "x" * 65, "é"])
def test_a_strange_mcuid_never_leaves_the_folder(tmp_path: Path, mcuid: str) -> None:
    """Whatever got past all checks, a session log is a plain file in the log folder, named by a digest."""
    folder = tmp_path / "deep" / "logs"
    write_sessions(folder, session_log(mcuid))

    digest = hashlib.sha256(mcuid.encode()).hexdigest()[:16]
    assert sorted(path.name for path in folder.iterdir()) == [f"id-{digest}-09-03-26_07-05.txt", "otaserver.log"]
    assert [folder] == list((tmp_path / "deep").iterdir())


def test_a_session_log_has_a_limit(tmp_path: Path) -> None:
    """Lines beyond the limit are dropped."""
    write_sessions(tmp_path, session_log(MCUID, *("line",) * (logs_module.SESSION_LINES + 50)))

    assert (tmp_path / NAME).read_text().count("\n") == logs_module.SESSION_LINES


def test_a_folder_that_vanished_is_told_once(tmp_path: Path) -> None:
    """Session logs that cannot be written are one line in the server's log, however many they are."""
    with server_log(tmp_path) as logger, contextlib.closing(SessionLogs(tmp_path / "gone", logger)) as sessions:
        for _ in range(5):
            sessions.write(session_log())

    assert (tmp_path / "otaserver.log").read_text().count("session logs cannot be written") == 1


def test_custom_logger_makes_lines_of_what_is_printed(tmp_path: Path) -> None:
    """It stands in for standard output: each thing printed is a line of the log, at its level."""
    with server_log(tmp_path) as logger, contextlib.redirect_stdout(CustomLogger(logger, logging.ERROR)):
        print("printed", 1, sep="\n")
        print()
        print("100 %s", end="", flush=True)

    lines = (tmp_path / "otaserver.log").read_text().splitlines()
    assert [line[24:] for line in lines] == ["ERROR    printed", "ERROR    1", "ERROR    100 %s"]


def test_custom_logger_takes_the_reference_servers_arguments(tmp_path: Path) -> None:
    """`CustomLogger(logger, level).write(message)` works as it did, and returns what a stream would."""
    with server_log(tmp_path) as logger:
        custom = CustomLogger(logger, logging.INFO)

        assert (custom.logger, custom.level, custom.write("message\n")) == (logger, logging.INFO, 8)


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """A full disk behind the server log costs its lines, and neither hangs nor raises."""
    (tmp_path / "otaserver.log").symlink_to("/dev/full")
    logger = open_server_log(tmp_path, as_json=False, console=None)

    with contextlib.redirect_stderr(CustomLogger(logger, logging.ERROR)):
        for _ in range(3):
            logger.info("a line")
            print("another", file=sys.stderr)

    close_log(logger)


def test_what_is_no_text_is_logged_escaped(tmp_path: Path) -> None:
    """A file name may hold bytes that are no UTF-8."""
    logger = open_server_log(tmp_path, as_json=False, console=None)

    logger.info("%s", "name \udcff")
    close_log(logger)

    assert r"name \udcff" in (tmp_path / "otaserver.log").read_text()
