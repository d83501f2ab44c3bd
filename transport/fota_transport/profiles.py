"""What the simulated wire is like, as data.

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
    delivers the stream in random cuts of 1 to that many bytes, whatever the writes were.
    """

    name: str
    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_second: float | None = None
    segment_bytes: int | None = None

    def __post_init__(self) -> None:
        for what, value in (("latency_s", self.latency_s), ("jitter_s", self.jitter_s)):
            if not 0.0 <= value < float("inf"):
                raise ProfileError(f"link profile {self.name}: {what} is {value}, expected >= 0")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0.0:
            raise ProfileError(
                f"link profile {self.name}: bytes_per_second is {self.bytes_per_second}, expected > 0 or None"
            )
        if self.segment_bytes is not None and self.segment_bytes < 1:
            raise ProfileError(
                f"link profile {self.name}: segment_bytes is {self.segment_bytes}, expected >= 1 or None"
            )


LOOPBACK: Final = LinkProfile("loopback")
"""Two programs on one host: no delay, writes arrive as they were made."""

LAN: Final = LinkProfile("lan", latency_s=0.000_2, jitter_s=0.000_1, bytes_per_second=12_500_000.0, segment_bytes=1460)
"""A switched 100 Mbit/s network with Ethernet-sized segments."""

GPRS: Final = LinkProfile("gprs", latency_s=0.3, bytes_per_second=1_920.0, segment_bytes=64)
"""A GPRS modem on a UART at 19,200 baud, 10 bits a byte; round trip 0.6 s.

The modem hands the stream over in pieces that have nothing to do with the writes.
"""

PROFILES: Final = MappingProxyType({profile.name: profile for profile in (LOOPBACK, LAN, GPRS)})
"""The profiles by name, for options and configuration files."""
