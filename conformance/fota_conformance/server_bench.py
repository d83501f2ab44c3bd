"""What a case does with the server under test: connect, play a session, demand that it lives.

`ServerBench` is the fixture `server`. It belongs to one case, knows the case's devices and wire log, and may be used
from a thread of its own (see `waiting`). It demands only what any case may rely on; what a case is about, the case
says. The device's is `device_bench`.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fota_conformance.case import Case
from fota_conformance.errors import CouldNotTest, Nonconformance, in_situation, put_down_to
from fota_conformance.exchange import PlayedDevice
from fota_conformance.hosts import CommandServer, Device, KnownServer
from fota_conformance.pace import EARLY, SETTLE_TIME, SLACK, Pace
from fota_conformance.peer import Peer, connect
from fota_conformance.reading import Firmware
from fota_conformance.reporting import recording, step
from fota_conformance.target import Handshake, Revision, ServerAddress, ServerCommand

TRY_AGAIN: Final = 0.1
"""Seconds that a device of the kit waits before it tries again; a real one waits longer."""


class ServerBench:
    """The server under test, for one case: ready, and with a registry that knows the case's `devices`."""

    def __init__(
        self,
        target: ServerCommand | ServerAddress,
        host: CommandServer | KnownServer,
        case: Case,
        devices: tuple[Device, ...],
        images: tuple[Firmware, ...],
        pace: Pace,
    ) -> None:
        self.target = target
        self.devices = devices
        self._pace = pace
        self._host = host
        # Asked once: the host would start a server anew that died in the case, as if nothing had happened.
        self._address = host.address()
        self._case = case
        self._images = images
        self._reached = False

    @property
    def settle_s(self) -> float:
        """Seconds in which a server that must not send something would send it."""
        return self._pace.wait(SETTLE_TIME * self.target.scale)

    def connect(self) -> Peer:
        """A new connection; close it, or use it in a `with` block."""
        try:
            peer = connect(self._address, self.target.timeouts.answer, self._case.log, time.monotonic)
        except Nonconformance as error:
            if self._reached or isinstance(self._host, CommandServer):
                raise
            # Nobody can start it again: this case is not to blame, the last one that reached it may be.
            last = self._host.last_case or "none did"
            raise CouldNotTest(f"{error}\n  the last case that reached this server: {last}") from error
        self._reached = True
        if isinstance(self._host, KnownServer):
            self._host.last_case = self._case.id
        return peer

    def session(
        self, device: Device | None = None, *, acks_permission: bool | None = None, hurried: bool = False
    ) -> PlayedDevice:
        """A new connection, played as a device of the case (the first one), nothing sent yet.

        `acks_permission` is the sort of device; left out: one that gets on best with the target's handshake. A
        `hurried` one looks neither whether the server waits for acks nor how it ends: for what a case is not about.
        """
        if acks_permission is None:
            acks_permission = self.target.handshake is not Handshake.IMMEDIATE
        return PlayedDevice(
            self.connect(),
            self.target,
            device or self.devices[0],
            acks_permission=acks_permission,
            pace=self._pace,
            others=self._images,
            hurried=hurried,
        )

    def update(self, device: Device | None = None) -> None:
        """One whole update of a device of the case."""
        with self.session(device) as session:
            session.update()

    def expect_update(self, device: Device | None, situation: str) -> None:
        """Demand a whole update; `situation` is what a failure is put down to."""
        with (
            step(f"{situation}, the server updates a device"),
            in_situation(situation),
            self.session(device, hurried=True) as session,
        ):
            session.update()

    def expect_still_serving(self, after: str, device: Device | None = None) -> None:
        """Demand that the server lives and updates a device, after something that it had to survive."""
        self.expect_update(device, f"after {after}")

    def update_in_the_end(self, device: Device, within_s: float, *, hurried: bool = False) -> None:
        """One whole update of a device that tries again for a while where it is turned away without a frame."""
        until = time.monotonic() + within_s
        while (turned_away := self._try_update(device, hurried)) is not None:
            if time.monotonic() >= until:
                raise put_down_to(f"turned away without a frame for {within_s:g} s, the last time", turned_away)
            time.sleep(TRY_AGAIN)

    def side_by_side(self, play: Callable[[Device], None], devices: Sequence[Device]) -> None:
        """Play something for each of some devices, for as many at once as the target bears."""
        with ThreadPoolExecutor(min(len(devices), self.target.concurrency)) as pool:
            plays = [pool.submit(_unreported, play, device) for device in devices]
        errors = [error for error in (one.exception() for one in plays) if error is not None]
        if not errors:
            return
        first = errors[0]
        if isinstance(first, Nonconformance):
            raise put_down_to(
                f"{len(errors)} of {len(devices)} sessions side by side failed; in the first", first
            ) from first
        raise first

    def stranger(self) -> str:
        """An MCUID that no registry knows."""
        if self.target.revision is Revision.A:
            return f"{secrets.randbelow(10**25):025d}"
        return secrets.token_hex(12).upper()

    @property
    def host(self) -> CommandServer:
        """The server's process and folders; only for cases whose requirement needs `process` or `registry`."""
        assert isinstance(self._host, CommandServer), "the requirement must name what the case needs"
        return self._host

    def expect_close_at(self, peer: Peer, deadline_s: float, since: float, situation: str) -> None:
        """Demand a close at a promised deadline, counted from `since` (monotonic): not before, and soon after."""
        left = since + deadline_s - time.monotonic()
        early_s = left - (1 - EARLY) * deadline_s
        accepted = (
            f"a close {deadline_s:g} s after that, as [deadlines] of the target file promises, and not a byte more"
        )
        if early_s > 0:
            peer.stay_quiet(early_s, f"{situation}, within the deadline of {deadline_s:g} s", accepted)
        left = since + deadline_s - time.monotonic()
        peer.expect_close(round(max(left, 0.0) + SLACK * self.target.scale, 1), situation, accepted)

    def _try_update(self, device: Device, hurried: bool) -> Nonconformance | None:
        """One update, or how the server turned the device away without a frame."""
        try:
            session = self.session(device, hurried=hurried)
        except Nonconformance as error:
            return error
        with session:
            try:
                session.identify()
                session.expect_allowed()
            except Nonconformance as error:
                if session.peer.ended and not session.peer.has_received:
                    return error
                raise
            session.ack_permission()
            session.take_rest()
            session.finish()
        return None


def _unreported(play: Callable[[Device], None], device: Device) -> None:
    """Play in a thread of its own, whose steps no report could place."""
    with recording():
        play(device)
