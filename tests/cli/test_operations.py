"""What `docs/operations.md` says of a server that runs for years: its files, its SQL and its alarms are tried out."""

import json
import logging
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fota_cli.main import full_parser, main
from fota_protocol.status import Status
from fota_server.config import Settings, load_settings
from fota_server.journal import Journal, JournalRow, read_journal

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "docs" / "examples"
PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
UNIT: Final = (EXAMPLES / "fota.service").read_text(encoding="utf-8")
LOGGER: Final = logging.getLogger("test")

TIMEOUT: Final = 60.0
DAY_S: Final = 86_400
FIRST, SECOND = (f"{10**21 + i:025d}" for i in range(2))

AGE_BY: Final = 250
"""The first systemd whose tmpfiles can go by the time of the last write alone."""


def blocks(language: str) -> list[str]:
    """The page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def cells(heading: str) -> list[list[str]]:
    """The cells of the rows of the table whose head begins with `heading`."""
    table = PAGE.split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def said(key: str) -> str:
    """The value of a setting that the unit has once."""
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT, flags=re.MULTILINE)
    return str(value)


def settings() -> Settings:
    """Those of the example."""
    return load_settings(EXAMPLES / "fota.toml")


def row(started_at: float, mcuid: str, status: Status, version: str = "16") -> JournalRow:
    """One session."""
    return JournalRow(
        started_at=started_at,
        duration_s=2.0,
        peer="127.0.0.1:50000",
        mcuid=mcuid,
        suffix="",
        filename="blink_1.s19",
        version=version,
        image_crc=None,
        records=0,
        records_acked=0,
        bytes_sent=0,
        status=int(status),
        status_name=status.name,
        detail=status.name,
    )


def wait_for(path: Path, count: int) -> list[JournalRow]:
    """The rows of a journal that is being written, when there are so many."""
    limit = time.monotonic() + TIMEOUT
    while len(rows := read_journal(path)) < count and time.monotonic() < limit:
        time.sleep(0.01)
    return rows


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """The journal of a server that runs: old and new sessions of two devices."""
    path = tmp_path / "journal.sqlite"
    server = Journal(path, LOGGER)
    now, old = time.time(), time.time() - 500 * DAY_S
    rows = [
        row(old, FIRST, Status.SUCCESSFUL),
        row(old + 1, FIRST, Status.SUCCESSFUL),
        row(old + 2, FIRST, Status.SUCCESSFUL, "17"),
        row(old + 3, SECOND, Status.CONNECTION_LOST),
        row(now - DAY_S, SECOND, Status.CONNECTION_LOST),
        row(now - 60, SECOND, Status.TIMEOUT_CONNECTION),
    ]
    for one in rows:
        server.add(one)
    assert rows == wait_for(path, len(rows))
    yield path
    server.close()


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_file_shown_is_the_file_that_ships(path: Path) -> None:
    """A block of the page is each example, letter by letter."""
    assert path.read_text(encoding="utf-8") in blocks("[a-z]+")


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_file_is_installed_where_it_says(path: Path) -> None:
    """The first line of an example names its place, and a command of the page puts it there."""
    place = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(":")[0]

    assert re.search(rf"^install .* docs/examples/{path.name} {place}$", PAGE, flags=re.MULTILINE)


def test_configuration_example_has_every_path_where_debian_has_it() -> None:
    """State, logs and settings lie apart, and the journal is not among what goes by age."""
    found = settings()

    assert Path("/var/lib/fota/devices2update.txt") == found.registry
    assert Path("/var/lib/fota/firmware") == found.firmware
    assert Path("/var/log/fota") == found.logs
    assert Path("/var/lib/fota/journal.sqlite") == found.journal


@pytest.mark.parametrize("example", blocks("toml"))
def test_settings_shown_are_settings(example: str, tmp_path: Path) -> None:
    """Every block of TOML is read without a complaint."""
    (tmp_path / "fota.toml").write_text(example, encoding="utf-8")

    load_settings(tmp_path / "fota.toml")


def test_unit_starts_the_server_with_options_that_there_are() -> None:
    """The command of the unit is one, and reads the configuration where the page puts it."""
    program, *words = shlex.split(said("ExecStart"))

    args = full_parser().parse_args(words)

    assert "/opt/fota/current/bin/fota" == program
    assert ("serve", Path("/etc/fota/fota.toml")) == (words[0], args.config)
    assert Path("/run", said("RuntimeDirectory")) == args.ready_file.parent


def test_unit_lets_the_server_write_what_its_settings_name() -> None:
    """Under ProtectSystem=strict, only what systemd makes for the service can be written; firmware is only read."""
    found = settings()
    state, logs = Path("/var/lib", said("StateDirectory")), Path("/var/log", said("LogsDirectory"))

    assert "strict" == said("ProtectSystem")
    assert logs == found.logs
    assert (state, state) == (found.registry.parent, found.journal_path.parent)
    assert str(found.firmware) == said("ReadOnlyPaths")


def test_unit_waits_for_longer_than_updates_may_go_on() -> None:
    """systemd kills nobody whom the server still lets finish."""
    assert settings().stop_timeout < float(said("TimeoutStopSec"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no fault with it, once the program that it names is there."""
    unit = tmp_path / "fota.service"
    unit.write_text(UNIT.replace("/opt/fota/current/bin/fota", sys.executable), encoding="utf-8")

    child = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], check=False, capture_output=True, text=True, timeout=TIMEOUT
    )

    # Other units of the machine may have faults of their own.
    assert [] == [line for line in child.stderr.splitlines() if unit.name in line]


def tmpfiles_version() -> int:
    """Of systemd-tmpfiles; 0 where there is none."""
    if shutil.which("systemd-tmpfiles") is None:
        return 0
    child = subprocess.run(["systemd-tmpfiles", "--version"], check=True, capture_output=True, text=True)
    return int(child.stdout.split()[1])


@pytest.mark.skipif(tmpfiles_version() < AGE_BY, reason=f"systemd-tmpfiles {AGE_BY} or newer is not installed")
def test_only_session_logs_go_by_age(tmp_path: Path) -> None:
    """systemd-tmpfiles deletes old session logs; never a journal, however long nobody wrote it, or the server's log."""
    logs = tmp_path / "var" / "log" / "fota"
    logs.mkdir(parents=True)
    (tmp_path / "etc" / "tmpfiles.d").mkdir(parents=True)
    shutil.copy(EXAMPLES / "fota-tmpfiles.conf", tmp_path / "etc" / "tmpfiles.d" / "fota.conf")
    kept = {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "otaserver.log", "otaserver.log.2026-01-01"}
    long_ago = time.time() - 100 * DAY_S
    for name in (*kept, f"{FIRST}-01-01-26_10-00.txt", f"{FIRST}-01-01-26_10-00_2.txt"):
        (logs / name).touch()
        os.utime(logs / name, (long_ago, long_ago))
    (logs / f"{SECOND}-23-11-26_10-00.txt").touch()

    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--clean", "fota.conf"], check=True, timeout=TIMEOUT)

    assert kept | {f"{SECOND}-23-11-26_10-00.txt"} == {path.name for path in logs.iterdir()}


@pytest.mark.skipif(shutil.which("find") is None, reason="find is not installed")
def test_cron_job_deletes_session_logs_alone(tmp_path: Path) -> None:
    """The `find` that is shown knows a session log by its name."""
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("find ")]
    long_ago = time.time() - 100 * DAY_S
    for name in (
        "journal.sqlite",
        "otaserver.log.2026-01-01",
        f"{FIRST}-01-01-26_10-00.txt",
        "AB-01-01-26_10-00_2.txt",
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (long_ago, long_ago))
    (tmp_path / f"{SECOND}-23-11-26_10-00.txt").touch()

    subprocess.run(shlex.split(command.replace("/var/log/fota", str(tmp_path))), check=True, timeout=TIMEOUT)

    left = {"journal.sqlite", "otaserver.log.2026-01-01", f"{SECOND}-23-11-26_10-00.txt"}
    assert left == {path.name for path in tmp_path.iterdir()}


def test_back_up_of_a_journal_in_use_is_whole(journal: Path, tmp_path: Path) -> None:
    """`VACUUM INTO` beside a server that has it open gives a journal with the same rows."""
    (target,) = re.findall(r"\"VACUUM INTO '(.*)'\"", PAGE)
    database = sqlite3.connect(journal)
    database.execute(f"VACUUM INTO '{tmp_path / Path(target).name}'")
    database.close()

    copied = read_journal(tmp_path / Path(target).name)

    assert read_journal(journal) == copied
    assert 6 == len(copied)


def test_server_goes_on_with_a_journal_that_was_restored(journal: Path, tmp_path: Path) -> None:
    """What comes after the back-up is added to it."""
    database = sqlite3.connect(journal)
    database.execute(f"VACUUM INTO '{tmp_path / 'restored.sqlite'}'")
    database.close()
    restored = Journal(tmp_path / "restored.sqlite", LOGGER)

    restored.add(row(time.time(), FIRST, Status.SUCCESSFUL, "18"))
    restored.close()

    assert 7 == len(read_journal(tmp_path / "restored.sqlite"))


def test_pruned_journal_still_knows_who_was_served(journal: Path) -> None:
    """Old rows go, but of each device the last success with each file and version; the server writes on."""
    prune, vacuum = blocks("sql")
    database = sqlite3.connect(journal, isolation_level=None, timeout=TIMEOUT)

    database.execute(prune)
    database.execute(vacuum)
    database.close()

    left = [(one.mcuid, one.version, one.status_name) for one in read_journal(journal)]
    assert [
        (FIRST, "16", "SUCCESSFUL"),
        (FIRST, "17", "SUCCESSFUL"),
        (SECOND, "16", "CONNECTION_LOST"),
        (SECOND, "16", "TIMEOUT_CONNECTION"),
    ] == left


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_prune_command_runs_beside_the_server(journal: Path, tmp_path: Path) -> None:
    """The program `sqlite3` takes both statements from a file, as shown."""
    (tmp_path / "prune.sql").write_text("".join(blocks("sql")), encoding="utf-8")

    with (tmp_path / "prune.sql").open(encoding="utf-8") as statements:
        subprocess.run(["sqlite3", "-cmd", ".timeout 10000", journal], check=True, stdin=statements, timeout=TIMEOUT)

    assert 4 == len(read_journal(journal))


def alarms() -> list[str]:
    """The programs for jq that the page shows, each behind `fota sessions … |`."""
    return re.findall(r"jq (-[re] '.*')$", PAGE, flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_failures_of_the_last_hour_are_counted(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shown names each status with its number, and nothing that is older."""
    count, _ = alarms()
    main(["sessions", "--journal", str(journal), "--failed", "--since", "1h", "--last", "0", "--json"])

    child = subprocess.run(
        ["jq", *shlex.split(count)], check=True, input=capsys.readouterr().out.encode(), stdout=subprocess.PIPE
    )

    assert b"1 TIMEOUT_CONNECTION\n" == child.stdout


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(("status", "code"), [(Status.CONNECTION_LOST, 0), (Status.SERVER_ERROR, 1)])
def test_alarm_is_raised_by_what_should_never_come(status: Status, code: int) -> None:
    """Exit code 1 for a status of that list, 0 for others and for none."""
    _, alarm = alarms()
    ended = [{"status": int(status), "status_name": status.name}]

    codes = [
        subprocess.run(
            ["jq", *shlex.split(alarm)], check=False, input=json.dumps(found).encode(), capture_output=True
        ).returncode
        for found in (ended, [])
    ]

    assert [code, 0] == codes


def test_alarm_asks_for_every_status_that_the_table_wants_at_any_time() -> None:
    """The numbers in the command are those of the table's rows with `any`, and every name has its number."""
    table = {int(number): (name.strip("`"), alarm) for number, name, alarm in cells("status")}
    (asked,) = re.findall(r"IN\((.*?)\)", alarms()[1])

    assert {number: Status(number).name for number in table} == {number: name for number, (name, _) in table.items()}
    assert {number for number, (_, alarm) in table.items() if alarm.startswith("any")} == set(
        map(int, asked.split(","))
    )


@pytest.mark.parametrize("line", [line.strip("`") for line, *_ in cells("line contains")])
def test_line_to_alarm_on_is_one_that_the_server_logs(line: str) -> None:
    """What the page tells to look for is in the server's source."""
    sources = (ROOT / "server" / "fota_server").rglob("*.py")

    assert any(line in source.read_text(encoding="utf-8") for source in sources)


def test_options_named_are_options_of_the_server() -> None:
    """Every `--option` that the prose names belongs to `fota serve`, or to a command that is named with it."""
    prose = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(--[a-z-]+)[^`]*`", prose))
    offered = {
        name
        for action in full_parser()._actions
        if isinstance(action.choices, dict)
        for command in ("serve", "sessions")
        for option in action.choices[command]._actions
        for name in option.option_strings
    }

    assert set() == named - offered
