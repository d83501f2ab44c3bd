"""What a case may ask for: `server` or `device`, a bench with the target under test, and what pytest varies.

A case cites what it is about by `fota_requirement`; from the catalogue follows whether it concerns the target at all,
and what the target must offer for anybody to see it. `fota_devices` are the devices that its server must know. The
server of a case marked `fota_fresh` or `fota_registry` is its own; the others share one for each worker. A case marked
`fota_waits` takes the bench alone, and runs beside the others (see `waiting`).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fota_conformance import reporting
from fota_conformance.case import STARTED, TARGET, Case, about
from fota_conformance.catalogue import load
from fota_conformance.device_bench import DeviceBench
from fota_conformance.images import fixture
from fota_conformance.server_bench import ServerBench
from fota_conformance.staging import (
    SANITY,
    SCRATCH,
    Stage,
    check_capabilities,
    is_first,
    is_waiting,
    is_worker,
    running_case,
)
from fota_conformance.target import AnyTarget, Handshake

STAGE: Final = pytest.StashKey[Stage]()
"""In the session's stash: the stage of this pytest process."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the chapters of the other role."""
    target = config.stash.get(TARGET, None)
    if target is None or not collection_path.name.startswith("test_"):
        return None
    return True if not collection_path.name.startswith(f"test_{target.role.value}_") else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both sorts of device for a server that gets on with both; the records at which an update is cut."""
    target = metafunc.config.stash.get(TARGET, None)
    if "acks_permission" in metafunc.fixturenames:
        sorts = {
            Handshake.WAIT: {"device acks @4#": True},
            Handshake.IMMEDIATE: {"device does not ack @4#": False},
            Handshake.AUTO: {"device acks @4#": True, "device does not ack @4#": False},
        }[target.handshake if target else Handshake.AUTO]
        metafunc.parametrize("acks_permission", sorts.values(), ids=sorts)
    if "cut" in metafunc.fixturenames:
        (name,) = next(metafunc.definition.iter_markers("fota_cuts")).args
        last = len(fixture(name).records)
        sampled = sorted({1, 2, last // 2, last})
        cuts = range(1, last + 1) if metafunc.config.getoption("fota_exhaustive") else sampled
        metafunc.parametrize("cut", cuts, ids=[f"record {cut}" for cut in cuts])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not concern the target; sanity first and last, what waits as early as it can."""
    target = config.stash.get(TARGET, None)
    if target is None:
        raise pytest.UsageError("nothing to judge: name a target file by --fota-target FILE")
    wanted = {load().requirement(name).id for name in config.getoption("fota_requirement") or ()}
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        requirements = [load().requirement(name) for name in about(item).requirements]
        concerned = any(
            one.role == target.role.value and one.concerns(target.revision.value, target.handshake.value)
            for one in requirements
        )
        selected = not wanted or any(one.id in wanted for one in requirements)
        (chosen if concerned and selected else left_out).append(item)
    slow = {item.path for item in chosen if is_waiting(item)}
    items[:] = sorted(chosen, key=lambda item: _rank(item, in_slow_file=item.path in slow))
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def _rank(item: pytest.Item, *, in_slow_file: bool) -> tuple[int, int]:
    """Sanity first and last. Waiting cases begin in threads with the first case of their file, and are asked last."""
    if SANITY in about(item).chapter:
        return (0, 0) if is_first(item) else (3, 0)
    if is_worker():
        return (1 if in_slow_file else 2, int(is_waiting(item)))
    return (1, int(is_waiting(item)))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Take what a waiting case found in its thread."""
    stage = pyfuncitem.session.stash.get(STAGE, None)
    room = stage.room(pyfuncitem) if stage is not None and is_waiting(pyfuncitem) else None
    if room is None:
        return None
    waited = room.finish(pyfuncitem)
    pyfuncitem.stash[STARTED] = time.monotonic() - waited.duration_s
    reporting.replay(waited.steps)
    if waited.error is not None:
        raise waited.error
    return True


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """What the cases of this pytest process share."""
    request.config.stash[SCRATCH] = tmp_path_factory.mktemp("scratch")
    request.session.stash[STAGE] = Stage(request.session, tmp_path_factory)
    yield request.session.stash[STAGE]
    request.session.stash[STAGE].close()


@pytest.fixture(autouse=True)
def case(request: pytest.FixtureRequest, stage: Stage) -> Case:
    """The running case; it is not run where nobody could see what it is about, or the target fails the sanity case."""
    running = running_case(request.node)
    check_capabilities(stage.target, request.node)
    stage.demand_sanity(request.node)
    return running


@pytest.fixture
def server(request: pytest.FixtureRequest, stage: Stage, case: Case) -> Iterator[ServerBench | None]:
    """The server under test, ready; a fresh one follows a case that did not pass. None for a case in the room."""
    if stage.room(request.node) is not None:
        yield None
        return
    with stage.bench(request.node, case) as bench:
        assert isinstance(bench, ServerBench)
        yield bench


@pytest.fixture
def device(request: pytest.FixtureRequest, stage: Stage, case: Case) -> Iterator[DeviceBench | None]:
    """The device under test. None for a case in the room."""
    if stage.room(request.node) is not None:
        yield None
        return
    with stage.bench(request.node, case) as bench:
        assert isinstance(bench, DeviceBench)
        yield bench


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config) -> AnyTarget:
    """What is judged."""
    return pytestconfig.stash[TARGET]
