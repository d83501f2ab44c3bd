"""One cut, as it happens: the update up to the cut, the reset, and the next update to its end.

No state is looked up and nothing is merged: this is what `explore` is held against.
"""

from dataclasses import dataclass

from fota_protocol.device import RecordCache

from ..device_file import SavedDevice
from ..errors import PowerLost
from ..events import EventTrace
from ..flash import Flash, SectorPool
from ..powered import PoweredSession
from ..supply import Cut, Supply
from .scenario import PoweredDevice, Scenario
from .verdict import Recovery, Verdict, access, first_start, is_updated


@dataclass(frozen=True, slots=True)
class Played:
    """What happened: the verdict, the trace up to the second update's end, and the device right after the cut."""

    verdict: Verdict
    trace: EventTrace | None
    device: SavedDevice
    records: int
    """Records that were acked before the cut."""
    detail: str
    """Where the power failed, in words."""


def play(scenario: Scenario, cut: Cut, *, traced: bool = False, cache: RecordCache | None = None) -> Played:
    """Play `cut`, which the scenario has."""
    device = PoweredDevice(scenario, supply := Supply(cut, seed=scenario.seed), traced=traced, cache=cache)
    trace = device.trace
    inner = device.mcu.session()
    session = PoweredSession(inner, supply, trace)
    detail = "never"
    try:
        session.start(0.0)
        for frame in scenario.server_frames:
            session.receive(frame, 0.0)
    except PowerLost as lost:
        detail = str(lost)
        if trace is not None:
            trace.record("power lost", where=detail, records=inner.records)
    after = device.mcu.saved()
    flash = Flash(scenario.part, SectorPool(), after.sectors, after.wear)
    start, kept = first_start(scenario, flash)
    recovery = access(scenario, flash, start, kept)
    if trace is not None:
        trace.record("power back", start=start.value)
    if recovery is not Recovery.NOT:
        again = PoweredDevice(scenario, Supply(), flash=flash, cache=cache, after=device)
        second = again.mcu.session()
        second.start(0.0)
        for frame in scenario.server_frames:
            second.receive(frame, 0.0)
        result = None if second.outcome is None else second.outcome.result
        updated = is_updated(scenario, flash, result, again.mcu.difference(scenario.new))
        if trace is not None:
            trace.record("second update", outcome="none" if result is None else result.value, verified=updated)
        if not updated:
            recovery = Recovery.NOT
    return Played(Verdict(start, recovery, kept), trace, after, inner.records, detail)
