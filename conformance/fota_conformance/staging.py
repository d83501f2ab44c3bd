"""From a pytest item to its bench: which devices and server a case gets, and whether it may run at all.

One `Stage` for each pytest process. It plays the sanity exchange before anything else counts on the target, opens the
waiting room, starts servers of their own for cases that want one, and lends known devices of a server by address so
that no two cases use one at once.
"""

import dataclasses
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from fota_conformance.case import CASE, CASES_NAME, TARGET, VERDICT, Case, about
from fota_conformance.catalogue import load
from fota_conformance.device_bench import DeviceBench, Wear
from fota_conformance.errors import ConformanceError, CouldNotTest, NotImplementedByTarget
from fota_conformance.hosts import CommandServer, Device, KnownServer, Place, Surroundings, Wanted, make_mcuid
from fota_conformance.images import fixture, image
from fota_conformance.pace import Pace
from fota_conformance.reading import Firmware, read_firmware
from fota_conformance.server_bench import ServerBench
from fota_conformance.target import (
    DEVICE_CAPABILITIES,
    SERVER_CAPABILITIES,
    AnyTarget,
    DeviceCommand,
    KnownDevice,
    Role,
    ServerAddress,
    ServerCommand,
)
from fota_conformance.verdicts import Verdict
from fota_conformance.waiting import WaitingRoom
from fota_conformance.wirelog import WireLog

SANITY: Final = "sanity"
"""What the chapters of the first and the last case have in their ids."""
FOLDER_LENGTH: Final = 120
"""Characters of a case's id that its folder's name keeps; behind them a digest tells ids apart."""
LEASE_TIMEOUT: Final = 600.0
"""Seconds that a case may wait for known devices that other cases use."""

Host: TypeAlias = CommandServer | KnownServer
Bench: TypeAlias = ServerBench | DeviceBench


class Stage:
    """All that the cases of one pytest process share."""

    def __init__(self, session: pytest.Session, folders: pytest.TempPathFactory) -> None:
        self.target: AnyTarget = session.config.stash[TARGET]
        self._session = session
        self._folders = folders
        self._devices = {item.nodeid: wanted_devices(item, self.target) for item in session.items}
        everyone = [device for group in self._devices.values() for device in group]
        self._images = tuple({one.file: one.firmware for one in everyone if one.firmware is not None}.values())
        self._wear = Wear()
        self._pace = Pace()
        self._pool = _Pool(self.target.devices if isinstance(self.target, ServerAddress) else ())
        self._host = self._shared_host()
        self._rooms: dict[str, WaitingRoom] = {}
        self._sanity: ConformanceError | None = None
        self._sanity_is_known = False

    def close(self) -> None:
        """Stop what still runs; no waiting case outlives the session."""
        for room in self._rooms.values():
            room.close()
        if self._host is not None:
            self._host.stop()

    def bench(self, item: pytest.Item, case: Case) -> AbstractContextManager[Bench]:
        """The bench of a case."""
        if self.target.role is Role.DEVICE:
            return self._device(case)
        return self._server(item, case)

    def room(self, item: pytest.Item) -> WaitingRoom | None:
        """The room where a case waits in a thread, opened when the first case needs it; None where it does not.

        A room holds the waiting cases that this process will surely come to: all of them, or on an xdist worker those
        of the case's file, since a file is judged by one worker (see `scheduling`).
        """
        if SANITY in about(item).chapter or self.target.concurrency == 1:
            return None
        name = item.path.name if is_worker() else ""
        # Others may run meanwhile, but for those of a server that bears only so many sessions.
        if name not in self._rooms and (is_waiting(item) or not isinstance(self.target, ServerAddress)):
            waiting = [
                one
                for one in self._session.items
                if is_waiting(one)
                and isinstance(one, pytest.Function)
                and name in ("", one.path.name)
                and not missing_capabilities(self.target, one)
            ]
            for one in waiting:
                running_case(one)  # in this thread, which asks for them, too
            self._rooms[name] = WaitingRoom(waiting, self.target.concurrency, self._arguments)
        room = self._rooms.get(name)
        return room if room is not None and item in room else None

    def demand_sanity(self, item: pytest.Item) -> None:
        """Refuse to run a case against a target that fails the sanity case, where that was selected."""
        if SANITY in about(item).chapter:
            return
        if not self._sanity_is_known:
            self._sanity_is_known = True
            first = next((one for one in self._session.items if is_first(one)), None)
            if first is not None and first.stash.get(VERDICT, None) is not Verdict.PASS:
                self._sanity = self._try_sanity(first)
        if self._sanity is not None:
            raise CouldNotTest(f"the sanity case fails, so that nothing else was tried: {self._sanity}")

    def _try_sanity(self, first: pytest.Item) -> ConformanceError | None:
        """Play one update, as the sanity case does; it may run in another process."""
        case = Case("sanity", self._folders.mktemp("sanity"), WireLog(time.monotonic))
        try:
            with self.bench(first, case) as bench:
                if isinstance(bench, DeviceBench):
                    bench.update(fixture("blink_1.s19"))
                else:
                    bench.update()
        except ConformanceError as error:
            return error
        return None

    @contextmanager
    def _arguments(self, item: pytest.Item) -> Iterator[dict[str, Any]]:
        """What a waiting case's function takes."""
        name = self.target.role.value
        with self.bench(item, running_case(item)) as bench:
            params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            yield {name: bench, **params}

    @contextmanager
    def _server(self, item: pytest.Item, case: Case) -> Iterator[ServerBench]:
        assert isinstance(self.target, ServerCommand | ServerAddress)
        devices = self._devices[item.nodeid]
        with ExitStack() as stack:
            host = self._host
            assert host is not None
            if isinstance(self.target, ServerCommand) and has_own_server(item):
                mark = item.get_closest_marker("fota_registry")
                surroundings = Surroundings(devices, tuple(mark.args) if mark else ())
                host = CommandServer(self.target, self._folders.mktemp("server"), surroundings)
                stack.callback(host.stop)
            since = host.mark()
            host.address()
            case.logs = lambda: host.logs(since)
            case.obituary, case.last_words = host.obituary, host.last_words
            if isinstance(self.target, ServerAddress):
                devices = stack.enter_context(self._pool.lend(len(devices)))
            try:
                yield ServerBench(self.target, host, case, devices, self._images, self._pace)
            finally:
                if host is not self._host:
                    # A case in the room is asked for what it saw when its server is gone.
                    said, obituary, last_words = host.logs(since), host.obituary(0.0), host.last_words()
                    case.logs, case.obituary, case.last_words = lambda: said, lambda _: obituary, lambda: last_words
            if item.stash.get(VERDICT, Verdict.PASS) is not Verdict.PASS:
                host.stop()

    @contextmanager
    def _device(self, case: Case) -> Iterator[DeviceBench]:
        assert isinstance(self.target, DeviceCommand)
        yield DeviceBench(self.target, case, worker(), self._wear, self._pace)

    def _shared_host(self) -> Host | None:
        """The server that cases share; it knows the devices of all cases that do not have a server of their own."""
        if isinstance(self.target, ServerAddress):
            return KnownServer(self.target)
        if isinstance(self.target, DeviceCommand):
            return None
        sharing = [item for item in self._session.items if not has_own_server(item)]
        everyone = tuple(device for item in sharing for device in self._devices[item.nodeid])
        return CommandServer(self.target, self._folders.mktemp("server"), Surroundings(everyone))


class _Pool:
    """The known devices of a server by address, lent to one case at a time."""

    def __init__(self, devices: Iterable[KnownDevice]) -> None:
        self._free = [
            Device.of(known.mcuid, dataclasses.replace(read_firmware(known.file), name=known.file.name), known.version)
            for known in devices
        ]
        self._changed = threading.Condition()
        self._most = len(_distinct(self._free))

    @contextmanager
    def lend(self, count: int) -> Iterator[tuple[Device, ...]]:
        """Some devices with different images."""
        if count > self._most:
            raise CouldNotTest(
                f"the target declares {self._most} devices with different images, this case takes {count}"
            )
        with self._changed:
            if not self._changed.wait_for(lambda: len(_distinct(self._free)) >= count, LEASE_TIMEOUT):
                raise CouldNotTest(f"other cases used the target's devices for {LEASE_TIMEOUT:g} s")
            lent = _distinct(self._free)[:count]
            self._free = [device for device in self._free if device not in lent]
        try:
            yield lent
        finally:
            with self._changed:
                self._free += lent
                self._changed.notify_all()


def _distinct(devices: Iterable[Device]) -> tuple[Device, ...]:
    """Devices with different images."""
    found: dict[int, Device] = {}
    for device in devices:
        assert device.firmware is not None
        found.setdefault(device.firmware.memory.crc, device)
    return tuple(found.values())


def wanted_devices(item: pytest.Item, target: AnyTarget) -> tuple[Device, ...]:
    """The devices of a case's mark `fota_devices`: a `Wanted` each, or the name of an image."""
    if target.role is Role.DEVICE:
        return ()
    mark = item.get_closest_marker("fota_devices")
    entries: tuple[Wanted | str, ...] = mark.args if mark else ("blink_1.s19",)
    found = []
    for index, entry in enumerate(entries):
        wanted = Wanted(entry) if isinstance(entry, str) else entry
        firmware, file, content = _image(wanted.image)
        if wanted.place is not Place.INSIDE:
            # A name of its own, or it would be found in the folder, too.
            file = f"{wanted.place.name.lower()}-{file}"
        mcuid = make_mcuid(about(item).id, worker(), index)
        found.append(Device(mcuid, firmware, wanted.version, file, content, wanted.place))
    return tuple(found)


def _image(name: str) -> tuple[Firmware | None, str, bytes]:
    if name not in _IMAGES:
        _IMAGES[name] = image(name)
    return _IMAGES[name]


_IMAGES: Final[dict[str, tuple[Firmware | None, str, bytes]]] = {}


def running_case(item: pytest.Item) -> Case:
    """The case of an item, made when it is first asked for, with a folder that is empty then."""
    if CASE not in item.stash:
        this = about(item)
        results: Path | None = item.config.getoption("fota_results")
        root = results.resolve() if results is not None else item.config.stash[SCRATCH]
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", this.id).strip("-")[:FOLDER_LENGTH]
        folder = root / CASES_NAME / f"{readable}-{hashlib.sha256(this.id.encode()).hexdigest()[:6]}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        item.stash[CASE] = Case(this.id, folder, WireLog(time.monotonic))
    return item.stash[CASE]


SCRATCH: Final = pytest.StashKey[Path]()
"""In the config's stash: where cases have their folders when no results are kept."""


def missing_capabilities(target: AnyTarget, item: pytest.Item) -> tuple[str, ...]:
    """What a case's requirements need and the target does not offer."""
    needs = {need for name in about(item).requirements for need in load().requirement(name).needs}
    return tuple(sorted(needs - target.offers))


def check_capabilities(target: AnyTarget, item: pytest.Item) -> None:
    """Refuse to run a case that nobody could judge."""
    known = DEVICE_CAPABILITIES if target.role is Role.DEVICE else SERVER_CAPABILITIES
    for name in missing_capabilities(target, item):
        if name in target.lacks:
            raise NotImplementedByTarget(f"the target declares {name} = false under [capabilities] in {target.path}")
        raise CouldNotTest(f"the target does not offer {name!r} ({known[name]}), in {target.path}")


def is_waiting(item: pytest.Item) -> bool:
    """Whether a case mostly waits."""
    return item.get_closest_marker("fota_waits") is not None


def is_first(item: pytest.Item) -> bool:
    """Whether it is the sanity case that is played first."""
    return SANITY in about(item).chapter and "first" in item.name


def has_own_server(item: pytest.Item) -> bool:
    """Whether a case's server is its own."""
    return any(item.get_closest_marker(name) for name in ("fota_fresh", "fota_registry", "fota_waits"))


def worker() -> str:
    """The xdist worker's name, empty without xdist."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


def is_worker() -> bool:
    """Whether this process is an xdist worker."""
    return bool(worker())
