"""What a case may ask for: the target, itself, devices that the server knows, one played update.

Only the files of the target's role are collected. `server` and `devices` are for servers under test, `play_update` is
for devices under test.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fota_fixtures
from fota_conformance import reporting
from fota_conformance.case import CASE, TARGET, Case, about
from fota_conformance.collector import CASES_NAME
from fota_conformance.errors import CouldNotTest
from fota_conformance.exchange import PlayUpdate, update_device
from fota_conformance.hosts import CommandServer, Device, KnownServer, make_mcuid, run_device
from fota_conformance.peer import Peer, connect, listen
from fota_conformance.reading import Firmware, read_firmware
from fota_conformance.target import (
    DeviceCommand,
    Handshake,
    KnownDevice,
    ServerAddress,
    ServerCommand,
    Target,
)
from fota_conformance.wirelog import WireLog

DeviceTable = dict[str, tuple[Device, ...]]
"""The devices of each case, by node id."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the chapters of the other role."""
    target = config.stash.get(TARGET, None)
    if target is None or not collection_path.name.startswith("test_"):
        return None
    return True if not collection_path.name.startswith(f"test_{target.role.value}_") else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play both sorts of device to a server that gets on with both."""
    if "acks_permission" in metafunc.fixturenames:
        target = metafunc.config.stash.get(TARGET, None)
        sorts = {
            Handshake.WAIT: {"device acks @4#": True},
            Handshake.IMMEDIATE: {"device does not ack @4#": False},
            Handshake.AUTO: {"device acks @4#": True, "device does not ack @4#": False},
        }[target.handshake if target else Handshake.AUTO]
        metafunc.parametrize("acks_permission", sorts.values(), ids=sorts)


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Without a target there is nothing to judge."""
    if TARGET not in config.stash:
        raise pytest.UsageError("the conformance cases judge a target: give one by --fota-target FILE")


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config) -> ServerCommand | ServerAddress | DeviceCommand:
    """What is judged."""
    return pytestconfig.stash[TARGET]


@pytest.fixture(autouse=True)
def case(request: pytest.FixtureRequest, target: Target, tmp_path: Path) -> Case:
    """The running case, with a folder that is empty when the case begins."""
    this = about(request.node)
    folder = tmp_path / "case"
    results: Path | None = request.config.getoption("fota_results")
    if results is not None:
        folder = results.resolve() / CASES_NAME / re.sub(r"[^A-Za-z0-9.]+", "-", this.id).strip("-")
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    running = Case(this.id, folder, WireLog(time.monotonic))
    request.node.stash[CASE] = running
    return running


@pytest.fixture(scope="session")
def device_table(request: pytest.FixtureRequest, target: Target) -> DeviceTable:
    """All devices of all cases that were collected: what a server under test is to know from its start."""
    images: dict[str, Firmware] = {}
    table: DeviceTable = {}
    for item in request.session.items:
        mark = item.get_closest_marker("fota_devices")
        if mark is None:
            continue
        if isinstance(target, ServerAddress):
            table[item.nodeid] = tuple(_as_device(known) for known in target.devices)
            continue
        for name, _ in mark.args:
            images.setdefault(name, read_firmware(fota_fixtures.path(name)))
        table[item.nodeid] = tuple(
            Device(make_mcuid(about(item).id, _worker(), index), images[name], version)
            for index, (name, version) in enumerate(mark.args)
        )
    return table


@pytest.fixture
def devices(request: pytest.FixtureRequest, device_table: DeviceTable) -> tuple[Device, ...]:
    """As many devices as the case's mark names, each with an image of its own."""
    mark = request.node.get_closest_marker("fota_devices")
    distinct: list[Device] = []
    for device in device_table[request.node.nodeid]:
        if all(device.firmware.memory != other.firmware.memory for other in distinct):
            distinct.append(device)
    wanted = len(mark.args)
    if len(distinct) < wanted:
        raise CouldNotTest(
            f"the target declares {len(distinct)} devices with different images, this case takes {wanted}"
        )
    return tuple(distinct[:wanted])


@pytest.fixture
def images(device_table: DeviceTable) -> tuple[Firmware, ...]:
    """All images that the server under test has: a wrong record may be another device's."""
    by_name = {device.firmware.name: device.firmware for group in device_table.values() for device in group}
    return tuple(by_name.values())


@pytest.fixture(scope="session")
def host(
    target: Target, device_table: DeviceTable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandServer | KnownServer]:
    """The server under test, up or not."""
    if isinstance(target, ServerAddress):
        yield KnownServer(target)
        return
    assert isinstance(target, ServerCommand)
    everyone = tuple(device for group in device_table.values() for device in group)
    server = CommandServer(target, tmp_path_factory.mktemp("server"), everyone)
    yield server
    server.stop()


@pytest.fixture
def server(
    request: pytest.FixtureRequest, host: CommandServer | KnownServer, case: Case, target: Target
) -> Iterator[Callable[[], Peer]]:
    """The server under test, ready; calling it makes a new connection. A fresh one follows a case that did not pass."""
    mark = host.mark()
    address = host.address()
    case.logs = lambda: host.logs(mark)
    case.obituary = host.obituary
    failed_before = request.session.testsfailed
    yield lambda: connect(address, target.timeouts.answer, case.log, time.monotonic)
    if request.session.testsfailed > failed_before:
        host.stop()


@pytest.fixture
def play_update(case: Case, target: Target) -> PlayUpdate:
    """One whole update of the device under test."""
    assert isinstance(target, DeviceCommand)

    def play(firmware: Firmware, version: str) -> dict[str, object]:
        mcuid = target.mcuid or make_mcuid(case.id, _worker())
        with listen(target.host, target.port, case.log, time.monotonic) as listener:
            values = {"host": target.host, "port": listener.port, "mcuid": mcuid, "artifacts": case.folder}
            with run_device(target, values) as device:
                case.logs = device.logs
                with reporting.step("the device connects"):
                    peer = listener.accept(target.timeouts.ready, device.has_ended)
                with peer:
                    update_device(peer, target, mcuid, firmware, version)
                with reporting.step("the device's command ends"):
                    device.finish()
        return values

    return play


def _worker() -> str:
    """The xdist worker's name, empty without xdist."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


def _as_device(known: KnownDevice) -> Device:
    return Device(known.mcuid, read_firmware(known.file), known.version)
