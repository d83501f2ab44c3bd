"""A temporary site and a real `fota serve` process on it: started, measured from outside, stopped by its own id.

Nothing here imports what it judges. The server is `sys.executable -m fota_cli serve` on a free port of 127.0.0.1, known
by its readiness line; its standard error is kept in a file; memory and descriptors are read from `/proc`, children
included, so that a server of several processes is measured as a whole. Leaving the block ends it whatever happened.
"""

import contextlib
import json
import os
import re
import resource
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import fota_fixtures

from .report import Report, UntestableError, UsageError, megabytes

READY_TIMEOUT: Final = 60.0
"""Seconds from the start of a server to its readiness line; starting Python on a busy machine takes most of them."""

STOP_TIMEOUT: Final = 60.0
"""Seconds from SIGTERM to the end of a server; then it is killed, and that is a broken claim."""

SETTLE_TIMEOUT: Final = 20.0
"""Seconds for rows, logs and descriptors to follow the last session (a refused connection lingers for 2 s, a closing
one for 5 s)."""

POLL: Final = 0.05
"""Seconds between two looks at something that should come."""

USAGE_EXIT: Final = 2
"""Exit code of `fota serve` for options that it does not take."""

_LOG_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) *\S|\{.*\}$")
_TROUBLE: Final = re.compile(rb'Traceback|^\S+ \S+ (?:ERROR|CRITICAL) |"level": "(?:ERROR|CRITICAL)"')


def records_of(text: bytes) -> tuple[bytes, ...]:
    """The data records that a server should send of an S-record file, known by their first two characters alone."""
    return tuple(line.upper() for line in text.split() if line[:2] in (b"S1", b"S2", b"S3"))


def frames_of(text: bytes, version: str) -> tuple[bytes, ...]:
    """Every frame that a device should get for an S-record file, verdict and end included."""
    return (b"@4#", *records_of(text), b"@%s##" % version.encode())


class Site:
    """A folder with a registry, a firmware folder and a place for logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "devices2update.txt"
        self.firmware = folder / "bin"
        self.logs = folder / "logs"
        self.errors = folder / "stderr.txt"
        self.firmware.mkdir(parents=True)
        self.registry.touch()
        self.errors.touch()

    @property
    def journal(self) -> Path:
        """The server's journal."""
        return self.logs / "journal.sqlite"

    @property
    def server_log(self) -> Path:
        """The server's log."""
        return self.logs / "otaserver.log"

    def put(self, *names: str) -> None:
        """Copy fixtures into the firmware folder."""
        for name in names:
            (self.firmware / name).write_bytes(fota_fixtures.read(name))

    def register(self, lines: Iterable[str]) -> None:
        """Make these lines the registry, in one step."""
        replace(self.registry, "".join(line + "\n" for line in lines).encode())

    def options(self) -> list[str]:
        """Options of a server of this site, on a free port of loopback."""
        places = ["--registry", str(self.registry), "--firmware", str(self.firmware), "--logs", str(self.logs)]
        return ["--host", "127.0.0.1", "--port", "0", "--quiet", *places]

    def trouble(self) -> list[str]:
        """Lines of the server log that are errors, or the head of a traceback."""
        found = []
        for log in sorted(self.logs.glob("otaserver.log*")):
            with log.open("rb") as file:
                found += [line.decode("utf-8", "replace").rstrip() for line in file if _TROUBLE.search(line)]
        return found

    def said(self) -> str:
        """What the server wrote to standard error."""
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def session_logs(self) -> list[Path]:
        """The logs of sessions."""
        return sorted(path for path in self.logs.glob("*.txt") if path != self.errors)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The journal, opened as another process would to read it."""
        database = sqlite3.connect(f"file:{self.journal}?mode=ro", timeout=10.0, uri=True)
        try:
            yield database
        finally:
            database.close()

    def ask(self, question: str) -> Any:
        """The first value of an answer of the journal."""
        with self.reading() as database:
            return database.execute(question).fetchone()[0]

    def statuses(self) -> dict[str, int]:
        """Sessions by how they ended."""
        with self.reading() as database:
            return dict(database.execute("SELECT status_name, count(*) FROM sessions GROUP BY 1 ORDER BY 2 DESC"))


@contextlib.contextmanager
def new_site(folder: Path | None) -> Iterator[Site]:
    """A site in `folder`, which stays, or in a temporary folder, which goes."""
    if folder is not None:
        if folder.exists():
            raise UsageError(f"folder {folder}: is there already, expected a new one")
        yield Site(folder.absolute())
        return
    with tempfile.TemporaryDirectory(prefix="fota-endurance-") as temporary:
        yield Site(Path(temporary))


def replace(path: Path, content: bytes) -> None:
    """Make `content` the file's, in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)


class Server:
    """A running server; a context manager that ends it."""

    def __init__(self, site: Site, options: Sequence[str], *, ready_within_s: float = READY_TIMEOUT) -> None:
        """Start it and wait until it is ready.

        Raises `UsageError` where it does not take `options`, and `TimeoutError`, after it was killed, where it is not
        ready in time.
        """
        self.site = site
        command = [sys.executable, "-m", "fota_cli", "serve", *site.options(), *options]
        with site.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=site.folder,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, and we end it in order
            )
        self.pid = self.process.pid
        self.stdout = b""
        """What it printed behind the readiness line: nothing, if all is well."""
        self._children: set[int] = set()
        try:
            ready = self._wait_until_ready(ready_within_s)
        except BaseException:
            self.kill()
            raise
        self.address: tuple[str, int] = (ready["host"], ready["port"])
        self.said_pid: int = ready["pid"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def runs(self) -> bool:
        """Whether the process that was started is still there."""
        return self.process.poll() is None

    def resident(self) -> int:
        """Bytes that the server holds in memory, its children included; 0 when it is gone."""
        return sum(_resident(pid) for pid in self.family())

    def descriptors(self) -> int:
        """Descriptors that the server holds open, its children included."""
        return sum(_descriptors(pid) for pid in self.family())

    def family(self) -> list[int]:
        """The server's process and its children."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        self._children.update(found[1:])
        return found

    def stop(self) -> int | None:
        """SIGTERM; returns the exit code, None when it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        return code

    def kill(self) -> None:
        """SIGKILL, if it still runs, and its children."""
        if self.runs:
            self.family()
            self.process.kill()
        self.process.wait()
        for child in self._children:  # those of a server that was killed have nobody who ends them
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/cmdline").read_bytes().find(b"fota") >= 0:
                    os.kill(child, signal.SIGKILL)
        if self.process.stdout is not None and not self.process.stdout.closed:
            if select.select([self.process.stdout], [], [], 0)[0]:
                self.stdout += os.read(self.process.stdout.fileno(), 65_536)
            self.process.stdout.close()

    def _wait_until_ready(self, timeout_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        stream = self.process.stdout.fileno()
        limit = time.monotonic() + timeout_s
        line = b""
        while b"\n" not in line:
            if not select.select([stream], [], [], max(0.0, limit - time.monotonic()))[0]:
                raise TimeoutError(f"the server was not ready within {timeout_s:g} s: {self._last_words()}")
            if not (more := os.read(stream, 4_096)):
                code = self.process.wait(READY_TIMEOUT)
                message = f"the server did not start, exit code {code}: {self._last_words()}"
                raise UsageError(message) if code == USAGE_EXIT else UntestableError(message)
            line += more
        line, _, self.stdout = line.partition(b"\n")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _last_words(self) -> str:
        return self.site.said()[-2_000:].strip() or "it said nothing"


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def require_linux() -> None:
    """Raises `UntestableError` where there is no `/proc`, no epoll, or no wide loopback."""
    if not sys.platform.startswith("linux"):
        raise UntestableError(f"{sys.platform}, expected Linux: /proc, epoll and all of 127.0.0.0/8 are used")


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process and the servers it starts open `wanted` descriptors; raises `UntestableError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UntestableError(f"a process may open {hard} descriptors, expected at least {wanted}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else hard, hard))


def wait_until(what: Any, timeout_s: float = SETTLE_TIMEOUT) -> bool:
    """Whether `what()` becomes true in time."""
    limit = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > limit:
            return False
        time.sleep(POLL)
    return True


def broken_lines(paths: Iterable[Path]) -> list[str]:
    """Lines of logs that are not whole: no time and level in front, or no line end behind."""
    broken = []
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        rest = lines.pop()
        broken += [f"{path.name}: {line[:100]!r}" for line in lines if not _LOG_LINE.match(line)]
        if rest:
            broken.append(f"{path.name}: {rest[-100:]!r} without a line end")
    return broken


def claim_health(report: Report, server: Server) -> None:
    """Claims of every program: it is alive until it is told to stop, ends well, and had nothing to complain of."""
    site = server.site
    report.claim(
        "the server process never ended, and is the one that was started",
        server.runs and server.said_pid == server.pid,
        f"pid {server.pid}, readiness line {server.said_pid}, exit code {server.process.poll()}",
    )
    claim_orderly_end(report, server)
    said = site.said()
    report.claim("standard error has nothing that looks like a traceback", "Traceback" not in said, said[-500:])
    trouble = site.trouble()
    report.claim(
        "the server log has no traceback and no ERROR",
        not trouble,
        f"{len(trouble)} lines; {trouble[:3]}" if trouble else "",
    )


def claim_orderly_end(report: Report, server: Server) -> None:
    """SIGTERM, and what it should lead to."""
    began = time.monotonic()
    code = server.stop() if server.runs else server.process.poll()
    report.fact("seconds from SIGTERM to the end", round(time.monotonic() - began, 2))
    report.claim("SIGTERM ends it with exit code 0", code == 0, f"exit code {code}")
    report.claim("it printed nothing behind its readiness line", not server.stdout, server.stdout[:200] or "")


def claim_journal_is_sound(report: Report, site: Site) -> None:
    """SQLite's own check."""
    found = site.ask("PRAGMA integrity_check")
    report.claim("the journal passes SQLite's integrity check", found == "ok", found)


def memory_facts(report: Report, server: Server) -> None:
    """What the server holds at this moment."""
    report.fact("server memory, MiB", megabytes(server.resident()))
    report.fact("server descriptors", server.descriptors())
