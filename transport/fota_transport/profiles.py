"""What a wire is like, as data; `line` makes moments of it.

A profile holds for each direction of a connection on its own: bytes leave one after the other at
`bytes_per_second`, then travel for `latency_s` plus jitter.  Order is kept.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .errors import ProfileError


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """One kind of link.

    `latency_s` is one way, `jitter_s` the most that chance adds to it.  `bytes_per_second` of None
    is infinite.  `segment_bytes` of None delivers what was written as it was written; a number
    delivers the stream in random cuts of 1 to that many bytes, whatever the writes were.  `loss` is
    the share of writes that come `resend_s` later, as TCP's next attempt does.  Outages of
    `outage_s` begin `outage_every_s` apart on the mean; what falls into one arrives at its end.
    """

    name: str
    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_second: float | None = None
    segment_bytes: int | None = None
    loss: float = 0.0
    resend_s: float = 1.0
    outage_every_s: float | None = None
    outage_s: float = 0.0

    def __post_init__(self) -> None:
        for what in ("latency_s", "jitter_s", "resend_s", "outage_s"):
            value = getattr(self, what)
            if not 0.0 <= value < float("inf"):
                raise ProfileError(f"link profile {self.name}: {what} is {value}, expected >= 0")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0.0:
            raise ProfileError(
                f"link profile {self.name}: bytes_per_second is {self.bytes_per_second}, expected > 0 or None"
            )
        if not 0.0 <= self.loss < 1.0:
            raise ProfileError(f"link profile {self.name}: loss is {self.loss}, expected 0 to less than 1")
        if self.outage_every_s is not None and not self.outage_every_s > 0.0:
            raise ProfileError(
                f"link profile {self.name}: outage_every_s is {self.outage_every_s}, expected > 0 or None"
            )
        if self.segment_bytes is not None and self.segment_bytes < 1:
            raise ProfileError(
                f"link profile {self.name}: segment_bytes is {self.segment_bytes}, expected >= 1 or None"
            )


LOOPBACK: Final = LinkProfile("loopback")
"""Two programs on one host: no delay, writes arrive as they were made."""

LAN: Final = LinkProfile("lan", latency_s=0.000_2, jitter_s=0.000_1, bytes_per_second=12_500_000.0, segment_bytes=1460)
"""A switched 100 Mbit/s network with Ethernet-sized segments."""

GPRS: Final = LinkProfile(
    "gprs",
    latency_s=0.3,
    jitter_s=0.1,
    bytes_per_second=1_920.0,
    segment_bytes=64,
    outage_every_s=600.0,
    outage_s=5.0,
)
"""A GPRS modem on a UART at 19,200 baud, 10 bits a byte; round trip 0.6 to 0.8 s, and now and then no network.

The modem hands the stream over in pieces that have nothing to do with the writes.
"""

NB_IOT: Final = LinkProfile("nb-iot", latency_s=0.8, jitter_s=0.8, bytes_per_second=2_500.0, segment_bytes=128)
"""A narrow-band modem in good coverage: round trips of seconds, some 20 kbit/s."""

LOSSY: Final = LinkProfile(
    "lossy", latency_s=0.04, jitter_s=0.02, bytes_per_second=125_000.0, segment_bytes=1460, loss=0.02
)
"""A crowded radio network: one write in fifty comes a second late."""

PROFILES: Final = MappingProxyType({profile.name: profile for profile in (LOOPBACK, LAN, GPRS, LOSSY, NB_IOT)})
"""The profiles by name, for options and configuration files."""
