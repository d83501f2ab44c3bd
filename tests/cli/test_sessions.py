"""`fota sessions` over the journal of a real server."""

import contextlib
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fota_fixtures
from fota_cli.compose.server_process import ServerProcess
from fota_cli.main import main

FIRST, SECOND, UNKNOWN = (f"{10**21 + i:025d}" for i in range(3))
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The journal of a server that runs: two updates, one unknown device, one that said nothing of itself."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "devices.txt").write_text(f"{FIRST},blink_1.s19,1\n{SECOND},blink_2.s19,2\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(folder / "devices.txt")]
    options += ["--firmware", str(fota_fixtures.path("blink_1.s19").parent), "--logs", str(folder / "logs")]
    path = folder / "logs" / "journal.sqlite"
    with ServerProcess(options, folder) as process:
        for mcuid in (FIRST, SECOND, UNKNOWN, FIRST):
            main(["mcu", "--server", f"{process.host}:{process.port}", "--mcuid", mcuid])
        with socket.create_connection((process.host, process.port), PATIENCE_S) as stranger:
            stranger.sendall(b"\x1b[2J")
            while stranger.recv(64):
                pass
        limit = time.monotonic() + PATIENCE_S
        while len(listed(path)) < 5 and time.monotonic() < limit:
            time.sleep(0.05)
        yield path


def listed(path: Path, *options: str) -> list[dict[str, Any]]:
    """What `--json` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["sessions", "--journal", str(path), "--json", *options]) == 0
    found: list[dict[str, Any]] = json.loads(printed.getvalue())
    return found


@pytest.mark.parametrize(
    ("options", "mcuids"),
    [
        ([], [FIRST, SECOND, UNKNOWN, FIRST, None]),
        (["--last", "2"], [FIRST, None]),
        (["--last", "0"], [FIRST, SECOND, UNKNOWN, FIRST, None]),
        (["--device", FIRST], [FIRST, FIRST]),
        (["--failed"], [UNKNOWN, None]),
        (["--failed", "--device", FIRST], []),
        (["--since", "1d"], [FIRST, SECOND, UNKNOWN, FIRST, None]),
        (["--since", "0s"], []),
    ],
)
def test_sessions_are_those_asked_for(journal: Path, options: list[str], mcuids: list[str | None]) -> None:
    """Oldest first; the filters go together."""
    assert mcuids == [session["mcuid"] for session in listed(journal, *options)]


def test_table_counts_outcomes_and_shows_no_control_characters(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a stranger sent does not reach the terminal as it came."""
    code = main(["sessions", "--journal", str(journal)])

    printed = capsys.readouterr().out
    assert code == 0
    assert "5 sessions: 3 SUCCESSFUL, 1 CLIENT_UNVERIFIED, 1 UNFORMATTED_MCUID" in printed
    assert "86/86" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--journal", "missing.sqlite"], "missing.sqlite: no such file"),
        (["--journal", str(fota_fixtures.path("blink_1.s19"))], "expected the journal of a server"),
        (["--last", "-1"], "expected 0 or more"),
        (["--device", "xyz"], "MCUID"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """What came, and what was expected."""
    code = main(["sessions", *options])

    assert code == 2
    assert message in capsys.readouterr().err
