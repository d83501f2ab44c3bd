"""Fixtures for tests of devices and servers: `ota_server`, `virtual_mcu` and `fleet`.

Every pytest of everyone who has k60-fota installed imports this module, so it may import pytest and the standard
library at its top, nothing else; what the fixtures need is imported when they are used. A test that uses one gets a
real server process on 127.0.0.1, in a folder of its own, and none of them needs an extra.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from fota_cli.compose.bench import FleetFactory, McuFactory
    from fota_cli.compose.local_server import LocalServer

SHORT_TIMES: Final[Mapping[str, object]] = {
    "identification-timeout": 5.0,
    "ack-timeout": 5.0,
    "end-ack-timeout": 5.0,
    "grace": 1.0,
    "stop-timeout": 1.0,
}
"""Times of `ota_server` in seconds: short enough for a test to see one pass, long enough for a busy machine."""

STOP_TIMEOUT: Final = 10.0
"""Seconds that a server has to stop at the end of a test, less its `stop-timeout`."""


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker."""
    config.addinivalue_line(
        "markers", "ota_server(**options): options of `fota serve` for this test's server, e.g. ack_timeout=0.5"
    )


@pytest.fixture
def ota_server_options() -> Mapping[str, object]:
    """Options of `fota serve` for `ota_server`, by their long names; override it: `{"ack-timeout": 0.5}`.

    A marker on the test, `@pytest.mark.ota_server(ack_timeout=0.5)`, wins over it.
    """
    return {}


@pytest.fixture
def ota_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ota_server_options: Mapping[str, object]
) -> "Iterator[LocalServer]":
    """A FOTA server: a process of its own on a free port, with an empty registry and short time-outs.

    `.host` and `.port` say where it is. `.add(mcuid, firmware, version="01", part=…, handshake=…, pack=…, once=…)`
    gives a device its firmware, a path or a `FirmwareImage`. `.sessions()` returns the rows of the journal, `.log()`
    the server's log. Times are 5 s (grace and stop 1 s) unless `ota_server_options` or the marker says otherwise.
    """
    from fota_cli.compose.local_server import LocalServer

    marked = {
        name.replace("_", "-"): value
        for marker in reversed(list(request.node.iter_markers("ota_server")))
        for name, value in marker.kwargs.items()
    }
    options = {**SHORT_TIMES, **ota_server_options, **marked}
    with LocalServer(tmp_path_factory.mktemp("ota-server"), options) as server:
        yield server
        code = server.stop(float(str(options["stop-timeout"])) + STOP_TIMEOUT)
    print(server.log())  # pytest shows it when the test failed
    if code != 0:
        pytest.fail(f"the server ended with exit code {code}:\n{server.process.output}")


@pytest.fixture
def _fota_mcuids() -> Iterator[str]:
    """MCUIDs for the devices of one test."""
    return (f"{number:025d}" for number in itertools.count(1_000_000_000_000_000_000_000))


@pytest.fixture
def virtual_mcu(_fota_mcuids: Iterator[str]) -> "McuFactory":
    """Factory of virtual K60s: `virtual_mcu(mcuid=…, part="MK60DN512", image=…)`, all of it optional.

    `.update(server)` connects to an `ota_server` (or anything with `.host` and `.port`) and returns an `McuReport`:
    `.result` is "updated", "refused" or "failed", `.reason` says why, `.verified` whether the flash holds `image` (by
    default: what the server has for the device) and nothing else. `.flash` survives from update to update.
    """
    from fota_cli.compose.bench import McuFactory

    return McuFactory(_fota_mcuids)


@pytest.fixture
def fleet(_fota_mcuids: Iterator[str]) -> "FleetFactory":
    """Many virtual K60s at once: `fleet(server, count=50, images=[…])` registers and updates them, in this process.

    `images` are paths or `FirmwareImage`s, dealt out in turn (by default an image of ours). Returns a `SwarmReport`:
    `.updated`, `.verified`, `.failures` by reason, `.devices` with an `McuReport` each.
    """
    from fota_cli.compose.bench import FleetFactory

    return FleetFactory(_fota_mcuids)
