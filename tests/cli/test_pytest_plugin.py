"""The pytest plugin as its users have it: in a folder of their own, run by a pytest of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from fota_cli.compose.bench import McuFactory
from fota_cli.compose.local_server import LocalServer
from fota_fixtures import path, read
from fota_protocol.formats import load

PAGE: Final = Path(__file__).parents[2] / "docs" / "testing-your-own.md"
TIMEOUT: Final = 300.0
DEVICE: Final = "0001100023593110965955141"


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `folder`, as strict as a careful user would."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--strict-markers", *options],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_the_example_of_the_documentation_passes(tmp_path: Path) -> None:
    """The page's complete example, in an empty folder, passes as it stands."""
    example = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "test_update.py").write_text(example, encoding="utf-8")

    done = run_pytest(tmp_path)

    assert f"{example.count('def test_')} passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_every_fixture_explains_itself(tmp_path: Path) -> None:
    """`pytest --fixtures` lists the fixtures with what they do."""
    done = run_pytest(tmp_path, "--fixtures")

    for name in ("ota_server", "ota_server_options", "virtual_mcu", "fleet"):
        assert re.search(rf"^{name} -- .*\n    \w", done.stdout, flags=re.MULTILINE), name


def test_a_failed_test_shows_the_log_of_its_server(tmp_path: Path) -> None:
    """Who looks at a failure sees what the server said."""
    (tmp_path / "test_it.py").write_text("def test_it(ota_server):\n    assert False\n", encoding="utf-8")

    done = run_pytest(tmp_path)

    assert re.search(r"Captured stdout teardown.*Listening on 127\.0\.0\.1:", done.stdout, flags=re.DOTALL), done.stdout


def test_a_server_that_dies_fails_the_test(tmp_path: Path) -> None:
    """A crash of the server is an error even where every assertion held."""
    (tmp_path / "test_it.py").write_text(
        "import os, signal\ndef test_it(ota_server):\n    os.kill(ota_server.process.pid, signal.SIGKILL)\n",
        encoding="utf-8",
    )

    done = run_pytest(tmp_path)

    assert "the server ended with exit code -9" in done.stdout
    assert done.returncode == 1


def test_wrong_options_end_the_test_with_what_the_server_said(tmp_path: Path) -> None:
    """A server that does not start says why."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.ota_server(ack_timeout=-1)\ndef test_it(ota_server):\n    pass\n", encoding="utf-8"
    )

    done = run_pytest(tmp_path)

    assert "ack-timeout -1, expected more than 0 and at most 86400 s" in done.stdout
    assert done.returncode == 1


@pytest.mark.ota_server(grace=0.5)
def test_a_marker_wins_over_the_options_fixture(ota_server: LocalServer, virtual_mcu: McuFactory) -> None:
    """The marker reaches the server, which then goes on without the ack of @4# after half a second."""
    ota_server.add(DEVICE, path("blink_1.s19"))

    report = virtual_mcu(mcuid=DEVICE, acks_verdict=False).update(ota_server)

    assert (report.result, report.verified) == ("updated", True)


def test_an_image_is_as_good_as_a_file(ota_server: LocalServer, virtual_mcu: McuFactory) -> None:
    """A `FirmwareImage` that a test made is served, and its CRC is what ends up in flash."""
    image = load(read("blink_1_unsealed.s19")).seal(0x4000)
    ota_server.add(DEVICE, image, pack=True)

    report = virtual_mcu(mcuid=DEVICE).update(ota_server)

    assert (report.result, report.verified) == ("updated", True)
    assert f"{image.crc32:08X}" == report.image_crc


def test_a_flash_that_is_not_as_expected_is_not_verified(ota_server: LocalServer, virtual_mcu: McuFactory) -> None:
    """Verification compares with the image that the test names, whatever the server sent."""
    ota_server.add(DEVICE, path("blink_1.s19"))

    report = virtual_mcu(mcuid=DEVICE, image=load(read("blink_2.s19"))).update(ota_server)

    assert (report.result, report.verified) == ("updated", False)


def test_a_server_that_is_not_there_is_a_failed_update(ota_server: LocalServer, virtual_mcu: McuFactory) -> None:
    """Nothing raises: the report says that there was no connection."""
    ota_server.stop()

    report = virtual_mcu().update(ota_server)

    assert (report.result, report.reason) == ("failed", "connection")
