"""The C pair that benchmarks compare with: it must do the work it is credited with."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fota_protocol.srecord import SRecord

SOURCES = Path(__file__).parents[2] / "benchmarks" / "reference"
DEADLINE = 30

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the reference pair is in C, and there is no cc")


def test_reference_fleet_is_updated_by_the_reference_server(tmp_path: Path) -> None:
    """Five devices take twenty records each, and the end frame, and the server closes behind every one."""
    server, client = build(tmp_path, "server"), build(tmp_path, "client")
    image = tmp_path / "image.s19"
    records = [SRecord(2, 0x4000 + 16 * i, bytes([i] * 16)) for i in range(20)]
    image.write_bytes(b"\r\n".join(r.encode() for r in (SRecord(0, 0), *records, SRecord(8, 0x4000))))

    with serving(server, image) as port:
        done = subprocess.run(
            [client, port, "5", "1", str(DEADLINE)], capture_output=True, text=True, check=False, timeout=2 * DEADLINE
        )

    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert tuple(result[name] for name in ("devices", "updated", "not_closed", "records")) == (5, 5, 0, 100)


def test_reference_server_ends_with_its_standard_input(tmp_path: Path) -> None:
    """A benchmark that dies leaves no server behind."""
    image = tmp_path / "image.s19"
    image.write_bytes(SRecord(1, 0x4000, b"\1").encode())
    server = subprocess.Popen(
        [build(tmp_path, "server"), image, str(DEADLINE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    with server:
        server.communicate(timeout=DEADLINE)

    assert server.returncode == 0


def build(folder: Path, name: str) -> Path:
    program = folder / name
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCES / f"{name}.c"], check=True
    )
    return program


@contextlib.contextmanager
def serving(server: Path, image: Path) -> Iterator[str]:
    with subprocess.Popen(
        [server, image, str(DEADLINE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate(timeout=DEADLINE)
