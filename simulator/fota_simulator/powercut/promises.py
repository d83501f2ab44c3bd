"""What bootloaders promise under power cuts, and a run's figures held against it."""

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..boot import BootPolicy
from ..errors import JudgeError
from .explore import Judged
from .verdict import FirstStart, Recovery, Verdict


class Promise(enum.Enum):
    """What must hold for every cut."""

    BOOTLOADER_KEPT = "the bootloader never changes"
    WHOLE_IMAGES = "only the old or the new application is ever started"
    UPDATABLE = "every device can be updated again without a hand"

    def holds(self, verdict: Verdict) -> bool:
        """Whether a cut with this verdict keeps it."""
        match self:
            case Promise.BOOTLOADER_KEPT:
                return verdict.bootloader_kept
            case Promise.WHOLE_IMAGES:
                return verdict.start in (FirstStart.BOOTLOADER, FirstStart.OLD, FirstStart.NEW)
            case Promise.UPDATABLE:
                return verdict.recovery is Recovery.ITSELF


PROMISES: Final[Mapping[BootPolicy, frozenset[Promise]]] = {
    BootPolicy.SEALED: frozenset(Promise),
    BootPolicy.VECTORS: frozenset({Promise.BOOTLOADER_KEPT}),
    BootPolicy.MARK: frozenset(Promise),
    BootPolicy.HOOK: frozenset({Promise.BOOTLOADER_KEPT}),
    BootPolicy.AN2295: frozenset(),
}
"""By policy. `vectors` trusts two words, and a cut may leave words that look sane; `hook` looks at one, and `an2295` at
none. That the bootloader never changes is its guard's work, which the model has too: the verdicts watch over both."""

KINDS: Final = ("before", "torn", "after", "wire")
"""Kinds of cuts, in the order of tables."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that was not kept: by how many cuts, and the first of them."""

    promise: Promise
    cuts: int
    first: int


@dataclass(frozen=True, slots=True)
class Tally:
    """All cuts of a scenario, counted."""

    starts: Mapping[str, Mapping[FirstStart, int]]
    """By kind of cut."""
    recoveries: Mapping[str, Mapping[Recovery, int]]
    """By kind of cut."""
    cuts: int
    classes: int
    first_of: Mapping[FirstStart, int]
    """The number of the first cut with each outcome."""
    broken: tuple[Broken, ...]
    """Promises of the policy that were not kept."""

    @classmethod
    def of(cls, judged: Iterable[Judged], policy: BootPolicy) -> "Tally":
        """Count; raises `JudgeError` where two cuts of one class have different verdicts."""
        starts: dict[str, Counter[FirstStart]] = {kind: Counter() for kind in KINDS}
        recoveries: dict[str, Counter[Recovery]] = {kind: Counter() for kind in KINDS}
        verdicts: dict[bytes, Verdict] = {}
        first_of: dict[FirstStart, int] = {}
        broken: dict[Promise, Broken] = {}
        for group in sorted(judged, key=lambda group: group.first):
            verdict = group.verdict
            if verdicts.setdefault(group.key, verdict) != verdict:
                raise JudgeError(f"cut {group.first}: {verdict}, but its class has {verdicts[group.key]}")
            starts[group.kind][verdict.start] += group.cuts
            recoveries[group.kind][verdict.recovery] += group.cuts
            first_of.setdefault(verdict.start, group.first)
            for promise in PROMISES[policy]:
                if not promise.holds(verdict):
                    earlier = broken.get(promise, Broken(promise, 0, group.first))
                    broken[promise] = Broken(promise, earlier.cuts + group.cuts, earlier.first)
        return cls(
            starts=starts,
            recoveries=recoveries,
            cuts=sum(kind.total() for kind in starts.values()),
            classes=len(verdicts),
            first_of=first_of,
            broken=tuple(broken[promise] for promise in Promise if promise in broken),
        )
