"""The simulated loop: virtual time, link profiles, determinism, and ends instead of hangs."""

import asyncio
import math
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from fota_transport.clock import VIRTUAL_EPOCH
from fota_transport.errors import BufferOverflow, SimulationStalled
from fota_transport.profiles import LAN, LOOPBACK, LinkProfile
from fota_transport.simulated import SimulatedLoop, SimulatedServer
from fota_transport.sweeper import Sweeper

GPRS = LinkProfile("calm gprs", latency_s=0.3, bytes_per_second=1_920.0, segment_bytes=64)
"""GPRS without what chance does to it: times are exact."""

_T = TypeVar("_T")


def run(loop: SimulatedLoop, main: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


class Arrivals(asyncio.Protocol):
    """Notes when which bytes arrived."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.arrivals.append((asyncio.get_running_loop().time(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def send(*writes: bytes) -> tuple[float, list[tuple[float, bytes]]]:
    """Write to a peer at once and close; return when that was and what arrived when."""
    loop = asyncio.get_running_loop()
    near, far = Arrivals(), Arrivals()
    async with await loop.create_server(lambda: far, port=4000):
        await loop.create_connection(lambda: near, port=4000)
        now = loop.time()
        for data in writes:
            near.transport.write(data)
        near.transport.close()
        await far.lost.wait()
    return now, far.arrivals


def test_sleeping_costs_no_time() -> None:
    """A thousand hours pass exactly, and at once."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        await asyncio.sleep(3_600_000.0)
        return loop.time(), loop.clock.wall()

    loop = SimulatedLoop(0, horizon_s=math.inf)

    assert run(loop, main()) == (3_600_000.0, VIRTUAL_EPOCH + 3_600_000.0)


def test_timers_run_in_the_order_of_their_times() -> None:
    """Timers of many tasks interleave as their times say."""

    async def main() -> list[float]:
        woken: list[float] = []

        async def sleeper(seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(seconds)

        await asyncio.gather(*map(sleeper, (0.3, 0.1, 7_200.0, 0.2)))
        return woken

    assert run(SimulatedLoop(0), main()) == [0.1, 0.2, 0.3, 7_200.0]


def test_a_wait_times_out_in_virtual_time() -> None:
    """wait_for gives up at its time-out by the loop's clock."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 30.0)
        return asyncio.get_running_loop().time()

    assert run(SimulatedLoop(0), main()) == 30.0


def test_a_connection_takes_one_round_trip() -> None:
    """The caller is connected, or refused, two latencies after it asked."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Arrivals, port=4000)
        refused = loop.time()
        async with await loop.create_server(Arrivals, port=4000):
            transport, _ = await loop.create_connection(Arrivals, port=4000)
            transport.close()
            return refused, loop.time()

    assert run(SimulatedLoop(0, GPRS), main()) == pytest.approx((0.6, 1.2))


def test_bytes_of_one_direction_queue_on_the_line() -> None:
    """Each write leaves when the one before has left, and travels for the latency."""
    profile = LinkProfile("slow", latency_s=2.0, bytes_per_second=8.0)
    now, arrivals = run(SimulatedLoop(0, profile), send(bytes(4), bytes(2), bytes(16)))

    assert arrivals == [
        (now + 0.5 + 2.0, bytes(4)),
        (now + 0.75 + 2.0, bytes(2)),
        (now + 2.75 + 2.0, bytes(16)),
    ]


def test_directions_do_not_share_the_line() -> None:
    """Both ends may send at full speed at the same time."""
    profile = LinkProfile("slow", latency_s=1.0, bytes_per_second=8.0)

    async def main() -> list[list[tuple[float, bytes]]]:
        loop = asyncio.get_running_loop()
        near, far = Arrivals(), Arrivals()
        async with await loop.create_server(lambda: far, port=4000):
            await loop.create_connection(lambda: near, port=4000)
            near.transport.write(bytes(8))
            far.transport.write(bytes(8))
            await asyncio.sleep(10.0)
            near.transport.close()
            await far.lost.wait()
        return [near.arrivals, far.arrivals]

    assert run(SimulatedLoop(0, profile), main()) == [[(4.0, bytes(8))], [(4.0, bytes(8))]]


def test_an_idle_line_is_free_at_once() -> None:
    """A write after a pause does not wait for the one before it."""
    profile = LinkProfile("slow", bytes_per_second=1.0)

    async def main() -> list[tuple[float, bytes]]:
        loop = asyncio.get_running_loop()
        near, far = Arrivals(), Arrivals()
        async with await loop.create_server(lambda: far, port=4000):
            await loop.create_connection(lambda: near, port=4000)
            near.transport.write(b"ab")
            await asyncio.sleep(10.0)
            near.transport.write(b"cd")
            near.transport.close()
            await far.lost.wait()
        return far.arrivals

    assert run(SimulatedLoop(0, profile), main()) == [(2.0, b"ab"), (12.0, b"cd")]


def test_stop_and_wait_over_gprs_takes_as_long_as_in_the_field() -> None:
    """652 records of 42 characters take 652 round trips of 0.6 s and the time of their bytes."""

    class Device(Arrivals):
        def __init__(self) -> None:
            super().__init__()
            self.size = 0

        def data_received(self, data: bytes) -> None:
            self.size += len(data)
            if self.size % 42 == 0:
                self.transport.write(b"@")

    class Server(Arrivals):
        left = 652

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(bytes(42))

        def data_received(self, data: bytes) -> None:
            self.left -= 1
            if self.left:
                self.transport.write(bytes(42))
            else:
                self.transport.close()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Server, port=4000):
            _, device = await loop.create_connection(Device, port=4000)
            assert isinstance(device, Device)
            await device.lost.wait()
            return loop.time()

    taken = run(SimulatedLoop(0, GPRS), main())

    # The way of the first request and of the end of the stream stand at the ends.
    assert taken == pytest.approx(0.3 + 652 * (0.6 + 43 / 1_920) + 0.3)


@pytest.mark.parametrize("seed", range(5))
def test_cuts_ignore_writes_and_keep_every_byte(seed: int) -> None:
    """Segments are 1 to `segment_bytes` long, join and split writes, and lose nothing."""
    writes = [b"@4#", b"S1130000", bytes(range(256)), b"@16##"]
    profile = LinkProfile("cut", latency_s=0.1, jitter_s=1.0, segment_bytes=7)
    _, arrivals = run(SimulatedLoop(seed, profile), send(*writes))

    pieces = [data for _, data in arrivals]
    assert b"".join(pieces) == b"".join(writes)
    assert {len(piece) for piece in pieces[:-1]} == set(range(1, 8))
    assert pieces[:4] != writes


def test_without_cuts_writes_arrive_as_they_were_made() -> None:
    """A profile without segments keeps the writes apart."""
    _, arrivals = run(SimulatedLoop(0, LOOPBACK), send(b"@4#", b"S1", b"@"))

    assert [data for _, data in arrivals] == [b"@4#", b"S1", b"@"]


def test_jitter_delays_within_its_bound_and_keeps_order() -> None:
    """Every arrival is late by at most the jitter, and none overtakes another."""
    profile = LinkProfile("jitter", latency_s=1.0, jitter_s=0.5)
    writes = [b"%d" % number for number in range(200)]
    now, arrivals = run(SimulatedLoop(3, profile), send(*writes))

    times = [time for time, _ in arrivals]
    assert [data for _, data in arrivals] == writes
    assert times == sorted(times)
    assert now + 1.0 <= times[0] < times[-1] < now + 1.5


async def crowd() -> list[tuple[float, int, bytes]]:
    """Thirty clients talk to an echoing server for a while; return every arrival in order."""
    loop = asyncio.get_running_loop()
    seen: list[tuple[float, int, bytes]] = []

    class Echo(Arrivals):
        def data_received(self, data: bytes) -> None:
            port = self.transport.get_extra_info("peername")[1]
            seen.append((loop.time(), port, data))
            self.transport.write(data.upper())

    async def client(number: int) -> None:
        await asyncio.sleep(number / 1_000)
        reader, writer = await asyncio.open_connection("127.0.0.1", 4000)
        for line in range(20):
            writer.write(b"line %d of %d\n" % (line, number))
            seen.append((loop.time(), number, await reader.readline()))
        writer.close()
        await writer.wait_closed()

    async with await loop.create_server(Echo, port=4000):
        await asyncio.gather(*map(client, range(30)))
    return seen


def test_the_same_seed_gives_the_same_run() -> None:
    """Two runs of one seed are equal in every time, address and cut; another seed differs."""
    first, again, other = (run(SimulatedLoop(seed, LAN), crowd()) for seed in (7, 7, 8))

    assert len(first) > 600
    assert first == again
    assert first != other


def test_the_global_random_numbers_are_left_alone() -> None:
    """A run draws from its own generator only."""
    random.seed(1)
    expected = random.random()
    random.seed(1)
    run(SimulatedLoop(7, LAN), crowd())

    assert random.random() == expected


def test_a_deadlock_is_an_error_that_names_who_waits() -> None:
    """Where a real loop would hang, the run ends and says which tasks wait."""

    async def main() -> None:
        asyncio.current_task().set_name("the fleet")  # type: ignore[union-attr]
        await asyncio.Event().wait()

    with pytest.raises(SimulationStalled, match=r"at 0\.000000 s nothing is ready.*the fleet"):
        run(SimulatedLoop(0), main())


def test_an_endless_repetition_ends_at_the_horizon() -> None:
    """A periodic timer cannot keep a run alive for ever."""

    async def main() -> None:
        while True:
            await asyncio.sleep(1.0)

    with pytest.raises(SimulationStalled, match="horizon of 1000 s"):
        run(SimulatedLoop(0, horizon_s=1_000.0), main())


def test_a_stopped_or_empty_sweeper_does_not_keep_the_loop_alive() -> None:
    """With nothing else to happen the run ends as stalled at once, not at the horizon."""

    async def main() -> None:
        sweeper = Sweeper(asyncio.get_running_loop(), 1.0)
        sweeper.stop()
        await asyncio.Event().wait()

    with pytest.raises(SimulationStalled, match="nothing is ready"):
        run(SimulatedLoop(0), main())


def test_a_protocol_that_ignores_pause_writing_is_stopped() -> None:
    """A writer that never pauses runs into the limit of the buffer, with an error."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = Arrivals(), Arrivals()
        async with await loop.create_server(lambda: far, port=4000):
            await loop.create_connection(lambda: near, port=4000)
            far.transport.pause_reading()
            try:
                for _ in range(100):
                    near.transport.write(bytes(1_048_576))
            finally:
                far.transport.abort()
                await near.lost.wait()

    with pytest.raises(BufferOverflow, match="does not heed pause_writing"):
        run(SimulatedLoop(0), main())


def test_a_caller_that_gives_up_resets_its_connection() -> None:
    """Cancelling create_connection on its way leaves no half-open peer behind."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        far = Arrivals()
        async with await loop.create_server(lambda: far, port=4000):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.create_connection(Arrivals, port=4000), 0.4)
            await far.lost.wait()
        return loop.time()

    assert run(SimulatedLoop(0, GPRS), main()) == pytest.approx(0.6 + 0.3)


def test_a_factory_that_raises_costs_one_connection() -> None:
    """A server whose factory fails resets that caller, tells the loop, and serves the next."""
    told: list[str] = []

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        far = Arrivals()
        made = iter([None, far])

        def factory() -> asyncio.Protocol:
            protocol = next(made)
            if protocol is None:
                raise LookupError("no protocol")
            return protocol

        async with await loop.create_server(factory, port=4000):
            unlucky, lucky = Arrivals(), Arrivals()
            await loop.create_connection(lambda: unlucky, port=4000)
            await unlucky.lost.wait()
            await loop.create_connection(lambda: lucky, port=4000)
            lucky.transport.close()
            await far.lost.wait()
        return lucky.lost.is_set()

    assert run(SimulatedLoop(0), main()) is True
    assert told == ["no protocol"]


def test_a_server_can_end_its_connections() -> None:
    """close_clients ends the streams in order, abort_clients resets, wait_closed waits for both."""

    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        clients = [Arrivals(), Arrivals()]
        servers = [await loop.create_server(Arrivals, port=port) for port in (4000, 4001)]
        for client, server in zip(clients, servers, strict=True):
            await loop.create_connection(
                lambda client=client: client,  # type: ignore[misc]
                *server.sockets[0].getsockname(),
            )
            server.close()
        first, second = servers
        assert isinstance(first, SimulatedServer)
        assert isinstance(second, SimulatedServer)
        first.close_clients()
        second.abort_clients()
        for server in servers:
            await server.wait_closed()
        for client in clients:
            await client.lost.wait()
        return [server.is_serving() for server in servers]

    assert run(SimulatedLoop(0), main()) == [False, False]


def test_a_client_may_name_its_own_address() -> None:
    """A swarm that spreads over source addresses sees them at the server."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        far = Arrivals()
        async with await loop.create_server(lambda: far, port=4000):
            transport, _ = await loop.create_connection(Arrivals, port=4000, local_addr=("127.0.0.7", 0))
            transport.close()
            await far.lost.wait()
        host: str = far.transport.get_extra_info("peername")[0]
        return host

    assert run(SimulatedLoop(0), main()) == "127.0.0.7"
