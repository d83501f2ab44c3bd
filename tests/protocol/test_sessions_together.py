"""Both sessions at the two ends of a wire with delays, in virtual time.

Every example is a whole update: the wire cuts what it carries wherever it likes, joins what has piled up, and delays
it; the timers of both sides fire exactly at their deadlines. The server's first record may be under way before the
device's ack of `@4#` has arrived, and the other way round.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_fixtures import read
from fota_protocol.device import DeviceSession, DeviceTimings, Finished, RecordCache, Result
from fota_protocol.errors import RecordRejected, Rejection
from fota_protocol.formats import cut, load
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.server import Closed, Handshake, Identified, ServerSession, ServerTimings
from fota_protocol.srecord import SRecord
from fota_protocol.status import Status

IDENTIFICATION: Final = Identification("0001100023593110965955141")
SERVER: Final = ServerTimings(identification=30.0, ack=30.0, end_ack=30.0, grace=5.0)
DEVICE: Final = DeviceTimings(verdict=60.0, frame=60.0)

MOST_EVENTS: Final = 100_000
"""A run that needs more goes round in circles."""


@dataclass
class Memory:
    """A target that keeps every byte, and refuses one record when it is told to."""

    content: dict[int, int] = field(default_factory=dict)
    version: str | None = None
    refuses: int | None = None
    written: int = 0

    def write(self, record: SRecord) -> None:
        if self.written == self.refuses:
            raise RecordRejected("no", reason=Rejection.FLASH)
        self.written += 1
        self.content.update(enumerate(record.data, start=record.address))

    def finish(self, version: str) -> None:
        self.version = version


@dataclass
class Wire:
    """One direction: bytes come out in order, cut anywhere, each piece no earlier than the one before it."""

    random: Random
    most_latency_s: float
    cuts: bool
    free_at: float = 0.0

    def send(self, data: bytes, now: float) -> list[tuple[float, bytes]]:
        """When what arrives; nothing arrives at the very instant at which it was sent."""
        arrivals = []
        while data:
            size = self.random.randint(1, len(data)) if self.cuts else len(data)
            self.free_at = max(self.free_at, now + self.random.uniform(0.001, self.most_latency_s))
            arrivals.append((self.free_at, data[:size]))
            data = data[size:]
        return arrivals


@dataclass
class Update:
    """One update over a pair of wires; each side closes when its session is over."""

    image: FirmwareImage
    handshake: Handshake
    device_acks_verdict: bool
    known: bool | None
    seed: int
    latency_s: float = 1.0
    cuts: bool = True
    memory: Memory = field(default_factory=Memory)
    cut_off_at: float | None = None
    """When the connection breaks, for both."""

    def run(self) -> tuple[ServerSession, DeviceSession]:
        """Play it to its end; returns both sessions, closed."""
        random = Random(self.seed)
        server = ServerSession(0.0, timings=SERVER)
        device = DeviceSession(
            IDENTIFICATION,
            self.memory,
            cache=RecordCache(),
            acks_verdict=self.device_acks_verdict,
            timings=DEVICE,
        )
        wires = {"server": Wire(random, self.latency_s, self.cuts), "device": Wire(random, self.latency_s, self.cuts)}
        peer = {"server": "device", "device": "server"}
        sessions: dict[str, ServerSession | DeviceSession] = {"server": server, "device": device}
        order = itertools.count()
        queue: list[tuple[float, int, str, bytes]] = []  # time, order, receiver, data (empty: the end of the stream)

        def send(sender: str, data: bytes, now: float) -> None:
            for at, piece in wires[sender].send(data, now):
                heapq.heappush(queue, (at, next(order), peer[sender], piece))

        def hang_up(sender: str, now: float) -> None:
            at = max(wires[sender].free_at, now + 0.001)
            heapq.heappush(queue, (at, next(order), peer[sender], b""))

        if self.cut_off_at is not None:
            for receiver in sessions:
                heapq.heappush(queue, (self.cut_off_at, next(order), receiver, b""))
        send("device", device.start(0.0), 0.0)
        for _ in range(MOST_EVENTS):
            due = [(s.deadline, name) for name, s in sessions.items() if s.deadline is not None]
            if not due:
                return server, device
            deadline, name = min(due)
            if queue and queue[0][0] < deadline:
                now, _, name, data = heapq.heappop(queue)
                session = sessions[name]
                if data:
                    send(name, session.receive(data, now), now)
                else:
                    session.peer_closed(now)
            else:
                now, session = deadline, sessions[name]
                send(name, session.timeout(now), now)
            events = session.events
            session.events = ()
            for event in events:
                match event:
                    case Identified(identification):
                        assert identification == IDENTIFICATION
                        server_sends = server.allow(
                            self.image.frames, "1a", now, handshake=self.handshake, acks_verdict=self.known
                        )
                        send("server", server_sends, now)
                    case Closed() | Finished():
                        hang_up(name, now)
        raise AssertionError(f"still going on after {MOST_EVENTS} events")


images = st.lists(
    st.tuples(st.integers(0, 40).map(lambda n: 0x4000 + 64 * n), st.binary(min_size=1, max_size=64)),
    min_size=1,
    max_size=6,
    unique_by=lambda piece: piece[0],
).map(lambda pieces: FirmwareImage.from_records(cut(pieces)))
"""Images with holes, of up to two dozen records."""

# What the server may know of a device from before: nothing, or what is so.
KINDS: Final = [
    pytest.param(handshake, acks, known, id=f"{handshake.value}-{'acks' if acks else 'does not'}-{known}")
    for handshake in Handshake
    for acks in (True, False)
    for known in (None, acks)
    if acks or handshake is not Handshake.WAIT
]


def bytes_of(image: FirmwareImage) -> dict[int, int]:
    return {a: b for segment in image.segments for a, b in enumerate(segment.data, start=segment.start)}


@pytest.mark.parametrize(("handshake", "acks", "known"), KINDS)
@given(
    image=images,
    seed=st.integers(0, 2**32),
    latency_s=st.floats(0.002, 2.0),
    cuts=st.booleans(),
)
def test_an_update_succeeds_on_both_sides(
    handshake: Handshake, acks: bool, known: bool | None, image: FirmwareImage, seed: int, latency_s: float, cuts: bool
) -> None:
    """Whatever the wire does short of breaking: the same bytes, the version, and two successes."""
    update = Update(image, handshake, acks, known, seed, latency_s, cuts)
    server, device = update.run()

    assert server.outcome == Closed(Status.SUCCESSFUL, "updated")
    assert device.outcome is not None
    assert device.outcome.result is Result.UPDATED
    assert (bytes_of(image), "1A") == (update.memory.content, update.memory.version)
    assert len(image.frames) == server.records_acked == device.records
    assert acks is server.acks_verdict or server.acks_verdict is None


@pytest.mark.parametrize(("handshake", "acks", "known"), KINDS)
@given(image=images, seed=st.integers(0, 2**32), data=st.data())
def test_a_refused_record_is_success_on_neither_side(
    handshake: Handshake, acks: bool, known: bool | None, image: FirmwareImage, seed: int, data: st.DataObject
) -> None:
    """The device says why; the server never believes in an update that was not."""
    refuses = data.draw(st.integers(0, len(image.frames) - 1))
    update = Update(image, handshake, acks, known, seed, memory=Memory(refuses=refuses))
    server, device = update.run()

    assert device.outcome is not None
    assert (Result.FAILED, Rejection.FLASH) == (device.outcome.result, device.outcome.reason)
    assert server.outcome is not None
    assert server.outcome.status is Status.CONNECTION_LOST
    assert update.memory.version is None


@pytest.mark.parametrize(("handshake", "acks", "known"), KINDS)
@given(image=images, seed=st.integers(0, 2**32), cut_off_at=st.floats(0.0, 60.0))
def test_the_server_claims_no_success_that_the_device_did_not_have(
    handshake: Handshake, acks: bool, known: bool | None, image: FirmwareImage, seed: int, cut_off_at: float
) -> None:
    """The connection breaks at any moment: a success of the server is one of the device."""
    update = Update(image, handshake, acks, known, seed, cut_off_at=cut_off_at)
    server, device = update.run()

    assert server.outcome is not None
    assert device.outcome is not None
    if server.outcome.status is Status.SUCCESSFUL:
        assert device.outcome.result is Result.UPDATED
        assert bytes_of(image) == update.memory.content
    if device.outcome.result is Result.UPDATED:
        assert bytes_of(image) == update.memory.content


@pytest.mark.parametrize(("handshake", "acks", "known"), KINDS)
def test_a_real_image_goes_through(handshake: Handshake, acks: bool, known: bool | None) -> None:
    """16 KiB in 1,024 records, and packed in fewer, give the image CRC of the file."""
    image = load(read("demo_16k.s19"))
    for sent in (image, image.pack(2048)):
        update = Update(sent, handshake, acks, known, seed=1, latency_s=0.01)
        server, _ = update.run()

        assert server.outcome == Closed(Status.SUCCESSFUL, "updated")
        assert bytes_of(image) == update.memory.content


def test_a_server_that_waits_times_out_on_a_device_that_does_not_ack() -> None:
    """The one pair that does not work, and says so on both sides."""
    update = Update(FirmwareImage.from_records(cut([(0x4000, b"x")])), Handshake.WAIT, False, None, seed=0)
    server, device = update.run()

    assert server.outcome is not None
    assert server.outcome.status is Status.TIMEOUT_CONNECTION
    assert device.outcome is not None
    assert device.outcome.result is Result.FAILED
    assert update.memory.content == {}
