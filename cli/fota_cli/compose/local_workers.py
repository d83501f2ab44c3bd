"""Worker processes that are started here, for one run in shards, with a scheduler in this process.

They belong to this process. They have a session of their own, so that a Ctrl-C in the terminal reaches this process
alone, which then asks every shard for what it has done, and ends them. Whatever else ends this process ends the
scheduler in it, and workers whose scheduler is gone leave.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import dask
from distributed import LocalCluster

from ..errors import HarnessError

START_TIMEOUT: Final = 120.0
"""Seconds until workers are there: starting Python takes most of them, many at once on few cores."""

END_TIMEOUT: Final = 5.0
"""Seconds from SIGTERM to SIGKILL of a worker."""

TOLD_LINES: Final = 10
"""Lines of a worker's output in the message about its death."""

_WORKER_SETTINGS: Final = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",  # it looks at every stack a hundred times a second
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
    "PYTHONSAFEPATH": "1",
}


class LocalWorkers:
    """A scheduler in this process, on the loopback, and worker processes; a context manager that ends them all."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._number = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fota-workers-")))
            stack.enter_context(
                dask.config.set({"distributed.scheduler.http.routes": [], "temporary-directory": str(self._folder)})
            )
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=0,
                    host="127.0.0.1",
                    scheduler_port=0,
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    silence_logs=logging.CRITICAL,
                )
            )
            self.address: str = cluster.scheduler_address
            """Where the scheduler is."""
            stack.callback(self._end_all)
            for _ in range(self._count):
                self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def replace_dead(self) -> None:
        """Start a worker for each that is gone."""
        for process in self._dead():
            self._processes.remove(process)
            self._start()

    def check(self) -> None:
        """Raise `HarnessError` with what it printed if a worker is gone."""
        for process in self._dead():
            told = self._output(process).read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD_LINES:]
            raise HarnessError(
                f"a worker did not start: exit code {process.returncode}; it printed:\n"
                + "\n".join(f"  {line}" for line in told or ["nothing"])
            )

    def _dead(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes if process.poll() is not None]

    def _start(self) -> None:
        self._number += 1
        options = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1"]
        options += ["--dashboard-address", "127.0.0.1:0", "--name", f"fota-{self._number}"]
        options += ["--local-directory", str(self._folder), "--death-timeout", f"{START_TIMEOUT:g}"]
        output = self._folder / f"starting-{self._number}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_worker", self.address, *options],
                env=os.environ | _WORKER_SETTINGS,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        output.rename(self._output(process))

    def _output(self, process: subprocess.Popen[bytes]) -> Path:
        return self._folder / f"{process.pid}.log"

    def _end_all(self) -> None:
        for process in self._processes:
            process.terminate()
        limit = time.monotonic() + END_TIMEOUT
        try:
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, limit - time.monotonic()))
        finally:
            for process in self._processes:
                process.kill()
                process.wait()
