"""Child processes: compiled, started, waited for with a deadline, measured from outside, and never left behind."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from .errors import BenchmarkError

COMPILE_TIMEOUT: Final = 60.0
"""Seconds to compile one C source."""

READY_TIMEOUT: Final = 30.0
"""Seconds that a server has to say its port."""

STOP_TIMEOUT: Final = 30.0
"""Seconds that a server has to end after SIGTERM: it writes the journal and the session logs that still wait."""


def compile_c(source: Path, program: Path) -> None:
    """Compile one C source; raises `BenchmarkError` when it cannot be."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError("no C compiler: expected `cc` on the path")
    command = [compiler, "-std=gnu11", "-O2", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_TIMEOUT)
    if done.returncode:
        raise BenchmarkError(f"cannot compile {source.name}:\n{done.stderr}")


@contextlib.contextmanager
def running(command: Sequence[str], *, stderr: Any = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process with pipes, killed at the end if it is still there."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def first_output(process: subprocess.Popen[bytes], name: str) -> bytes:
    """The line by which a server says that it is ready; raises `BenchmarkError`."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_TIMEOUT)
    line = process.stdout.readline() if readable else b""
    if not line:
        trouble = "ended before it was ready" if readable else f"not ready within {READY_TIMEOUT:g} s"
        raise BenchmarkError(f"{name}: {trouble}")
    return line


def stop(server: subprocess.Popen[bytes]) -> None:
    """End our server as its users do; raises `BenchmarkError` unless it ends well."""
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"our server: still there {STOP_TIMEOUT:g} s after SIGTERM") from None
    if code:
        raise BenchmarkError(f"our server: exit code {code}, expected 0")


def json_output(command: Sequence[str], name: str, timeout_s: float) -> dict[str, Any]:
    """Run a fleet to its end and return what it prints; raises `BenchmarkError`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{name}: not done within {timeout_s:g} s") from None
    if done.returncode:
        raise BenchmarkError(f"{name}: the fleet's exit code is {done.returncode}: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def memory(pid: int, field: str) -> int:
    """A size from /proc/PID/status, in bytes; raises `BenchmarkError` where there is none."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"/proc/{pid}/status: no {field}")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, its own and the kernel's for it."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def pinned(wanted: bool) -> Iterator[None]:
    """Keep this process and those it starts on one core: a single connection measures wake-ups otherwise."""
    cores = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
