"""How long the kit waits, and how fast a target is, so that what must not come is waited for long enough to be seen.

A target that answers at its own pace misbehaves at that pace, too. Answers are timed as they come; the median counts,
since one of them may have met a busy machine.
"""

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Final

SETTLE_TIME: Final = 0.25
"""Seconds (before `scale`) in which a target that must wait would show that it does not. Long enough for loopback and a
LAN; a target that is slower to misbehave passes, never the other way round."""
REFUSAL_TIME: Final = 1.0
"""Seconds (before `scale`) in which a device that takes what it must not take would have acked it; a good one ends this
wait by its close."""
SLACK: Final = 2.5
"""Seconds (before `scale`) that a promised deadline may be overrun: what a sweep and a busy machine take."""
EARLY: Final = 0.9
"""The part of a promised deadline before which nobody may give up: clocks start at slightly different moments."""
KEPT: Final = 51
"""Answers that are remembered."""
FACTOR: Final = 4.0
"""How many answers' time a target gets for what it must not send."""
LIMIT_S: Final = 10.0
"""Seconds that a wait for nothing takes at most."""


@dataclass(slots=True)
class Pace:
    """The times from the kit's frames to a target's answers, in seconds; shared by all cases of a pytest process."""

    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def saw(self, seconds: float) -> None:
        """One answer came."""
        self._seen.append(seconds)

    def wait(self, least_s: float) -> float:
        """Seconds after which what did not come is not coming: at least so many, more for a slow target."""
        seen = list(self._seen)  # others may add to it meanwhile
        slow = FACTOR * statistics.median(seen) if seen else 0.0
        return max(least_s, min(slow, LIMIT_S))
