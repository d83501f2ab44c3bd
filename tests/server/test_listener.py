"""The listener in virtual time: every deadline, every handshake, who may come and who must go.

Times are exact here: the clock moves only when all wait. A deadline may be overrun by one sweep and no more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from tests.server.conftest import MCUID, OTHER_MCUID, Site, Update, blink, identification, statuses

from fota_protocol.server import PAUSE, Handshake
from fota_server.app import running
from fota_server.journal import JournalRow, read_journal
from fota_server.listener import LINGER, SWEEP_INTERVAL, Listener
from fota_transport.simulated import SimulatedLoop

_T = TypeVar("_T")

TIMES = {
    "identification_timeout": 30.0,
    "ack_timeout": 40.0,
    "end_ack_timeout": 50.0,
    "grace": 5.0,
    "stop_timeout": 60.0,
}


class VirtualPeer:
    """A device's end of a simulated connection, in raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def take(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        return await self._reader.read()

    async def identify(self, mcuid: str = MCUID, *, acks_verdict: bool = True) -> bytes:
        self.send(identification(mcuid))
        verdict = await self.take(3)
        if acks_verdict and verdict == b"@4#":
            self.send(b"@")
        return verdict

    async def frame(self) -> bytes:
        head = await self.take(4)
        if head[:1] == b"S":
            return head + await self.take(2 * int(head[2:4], 16))
        return head + await self._reader.readuntil(b"#")

    async def records(self, *, pause: float = 0.0) -> tuple[tuple[bytes, ...], bytes]:
        """Take all records and ack each after `pause`; the end frame stays unacked."""
        records = []
        while (frame := await self.frame()).startswith(b"S"):
            records.append(frame)
            await asyncio.sleep(pause)
            self.send(b"@")
        return tuple(records), frame

    async def update(self, mcuid: str = MCUID, *, acks_verdict: bool = True) -> Update:
        verdict = await self.identify(mcuid, acks_verdict=acks_verdict)
        if verdict != b"@4#":
            return Update(verdict, rest=await self.rest())
        records, end = await self.records()
        self.send(b"@")
        return Update(verdict, records, end, await self.rest())


Dial = Callable[[], Awaitable[VirtualPeer]]
Script = Callable[[Dial, Listener], Awaitable[_T]]


def simulate(site: Site, script: Script[_T], **settings: Any) -> tuple[_T, list[JournalRow]]:
    """Run `script` against a server in virtual time; returns its result and the journal."""
    chosen = site.settings(**(TIMES | settings))
    failures: list[dict[str, Any]] = []

    async def main() -> _T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.set_exception_handler(lambda _, context: failures.append(context))
        peers: list[VirtualPeer] = []

        async def dial() -> VirtualPeer:
            peers.append(VirtualPeer(*await asyncio.open_connection(ready.host, ready.port)))
            return peers[-1]

        async with running(chosen, clock=loop.clock) as (listener, ready, _):
            result = await script(dial, listener)
            for peer in peers:
                peer.writer.close()
        return result

    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(1)) as runner:
        result = runner.run(main())
    assert not failures
    return result, read_journal(chosen.journal_path)


def now() -> float:
    return asyncio.get_running_loop().time()


async def end_of(peer: VirtualPeer) -> tuple[bytes, float]:
    """What still comes, and how long after this moment the stream ends or is reset."""
    start = now()
    try:
        rest = await peer.rest()
    except ConnectionResetError:
        rest = b""
    return rest, now() - start


def met(deadline: float, waited: float) -> bool:
    return deadline <= waited <= deadline + SWEEP_INTERVAL + 1e-6


# --- deadlines


async def silent(peer: VirtualPeer) -> float:
    return TIMES["identification_timeout"]


async def half_identified(peer: VirtualPeer) -> float:
    peer.send(identification(MCUID)[:10])
    return TIMES["identification_timeout"]


async def offered(peer: VirtualPeer) -> float:
    await peer.identify(acks_verdict=False)
    return TIMES["ack_timeout"]


async def first_record(peer: VirtualPeer) -> float:
    await peer.identify()
    await peer.frame()
    return TIMES["ack_timeout"]


async def later_record(peer: VirtualPeer) -> float:
    await peer.identify()
    for _ in range(10):
        await peer.frame()
        await asyncio.sleep(20)
        peer.send(b"@")
    await peer.frame()
    return TIMES["ack_timeout"]


async def ending(peer: VirtualPeer) -> float:
    await peer.identify()
    await peer.records()
    return TIMES["end_ack_timeout"]


Reach = Callable[[VirtualPeer], Awaitable[float]]
"""Brings a session into a state; returns the deadline that holds there."""

STATES: dict[Reach, str] = {
    silent: "identifying",
    half_identified: "identifying",
    offered: "offered",
    first_record: "sending",
    later_record: "sending",
    ending: "ending",
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_its_deadline(site: Site, state: Reach) -> None:
    """A device that falls silent anywhere is closed without a frame when that state's time is over."""

    async def script(dial: Dial, listener: Listener) -> tuple[float, bytes, float]:
        peer = await dial()
        deadline = await state(peer)
        return deadline, *await end_of(peer)

    (deadline, rest, waited), (row,) = simulate(site, script, handshake=Handshake.WAIT)

    assert rest == b""
    assert met(deadline, waited)
    assert (7, f"silent for {deadline:g} s while {STATES[state]}") == (row.status, row.detail)


@pytest.mark.parametrize("state", STATES)
def test_line_ends_move_no_deadline(site: Site, state: Reach) -> None:
    """A device that sends CR LF for ever is closed as if it were silent; before it said who it is, as malformed."""

    async def script(dial: Dial, listener: Listener) -> tuple[float, bytes, float]:
        peer = await dial()
        deadline = await state(peer)

        async def flood() -> None:
            while True:
                peer.send(b"\r\n" * 100)
                await asyncio.sleep(1)

        flooding = asyncio.create_task(flood())
        try:
            return deadline, *await end_of(peer)
        finally:
            flooding.cancel()

    (deadline, rest, waited), (row,) = simulate(site, script, handshake=Handshake.WAIT)

    if STATES[state] == "identifying":
        assert (rest, row.status_name) == (b"@0#", "UNFORMATTED_MCUID")
        assert waited <= LINGER
    else:
        assert rest == b""
        assert met(deadline, waited)
        assert row.status_name == "TIMEOUT_CONNECTION"


def test_a_trickled_identification_moves_no_deadline(site: Site) -> None:
    """The time to identify is one for all of it: a byte now and then does not buy more."""

    async def script(dial: Dial, listener: Listener) -> float:
        peer = await dial()
        reading = asyncio.create_task(end_of(peer))
        for byte in identification(MCUID):
            if reading.done():
                break
            peer.send(bytes([byte]))
            await asyncio.sleep(4)
        return (await reading)[1]

    waited, (row,) = simulate(site, script)

    assert met(30, waited)
    assert row.status_name == "TIMEOUT_CONNECTION"


def test_each_ack_buys_time_for_the_next(site: Site) -> None:
    """An update may take as long as it takes while no single ack does."""

    async def script(dial: Dial, listener: Listener) -> tuple[Update, float]:
        peer = await dial()
        await peer.identify()
        records, end = await peer.records(pause=39)
        await asyncio.sleep(49)
        peer.send(b"@")
        return Update(b"@4#", records, end, await peer.rest()), now()

    (update, took), (row,) = simulate(site, script)

    assert blink(1) == update
    assert took > 86 * 39
    assert row.status_name == "SUCCESSFUL"
    assert abs(row.duration_s - took) < 1


# --- handshakes


@pytest.mark.parametrize("handshake", [Handshake.AUTO, Handshake.WAIT])
def test_a_device_that_acks_the_verdict_waits_for_nothing(site: Site, handshake: Handshake) -> None:
    """Its update takes no time beyond its own, and is closed at its last ack."""

    async def script(dial: Dial, listener: Listener) -> tuple[Update, float]:
        return await (await dial()).update(), now()

    (update, took), (row,) = simulate(site, script, handshake=handshake)

    assert blink(1) == update
    assert took < SWEEP_INTERVAL
    assert row.status_name == "SUCCESSFUL"


def test_auto_goes_on_after_the_grace_and_lingers_as_long(site: Site) -> None:
    """A device that does not ack `@4#` gets its first record a grace later, and silence at the end is success."""

    async def script(dial: Dial, listener: Listener) -> tuple[Update, float]:
        return await (await dial()).update(acks_verdict=False), now()

    (update, took), (row,) = simulate(site, script)

    assert blink(1) == update
    assert 10 <= took <= 10 + 2 * SWEEP_INTERVAL
    assert row.status_name == "SUCCESSFUL"


def test_immediate_sends_the_first_record_with_the_verdict(site: Site) -> None:
    """Revision A's device waits for no grace, only for the end of the linger."""

    async def script(dial: Dial, listener: Listener) -> tuple[Update, float]:
        return await (await dial()).update(acks_verdict=False), now()

    (update, took), (row,) = simulate(site, script, handshake=Handshake.IMMEDIATE)

    assert blink(1) == update
    assert met(5, took)
    assert row.status_name == "SUCCESSFUL"


@pytest.mark.parametrize("together", [False, True])
def test_immediate_takes_the_ack_of_the_verdict_too(site: Site, together: bool) -> None:
    """A device that is one ack ahead to the end, or whose two acks come at once, gets the whole image."""

    async def script(dial: Dial, listener: Listener) -> tuple[Update, float]:
        peer = await dial()
        peer.send(identification(MCUID))
        verdict, first = await peer.take(3), await peer.frame()
        peer.send(b"@@" if together else b"@")
        if not together:
            await asyncio.sleep(1)
            peer.send(b"@")
            await asyncio.sleep(1)
        records, end = await peer.records()
        peer.send(b"@")
        return Update(verdict, (first, *records), end, await peer.rest()), now()

    (update, took), (row,) = simulate(site, script, handshake=Handshake.IMMEDIATE)

    assert blink(1) == update
    assert took < 5
    assert row.status_name == "SUCCESSFUL"


def test_a_close_in_the_linger_is_unconfirmed(site: Site) -> None:
    """Who may have been one ack ahead and leaves at the end was perhaps not updated: that is no success."""

    async def script(dial: Dial, listener: Listener) -> None:
        peer = await dial()
        await peer.identify(acks_verdict=False)
        await peer.records()
        peer.send(b"@")
        await asyncio.sleep(1)
        peer.writer.close()
        await asyncio.sleep(1)

    _, (row,) = simulate(site, script)

    assert (row.status, row.status_name) == (23, "UNCONFIRMED")


def test_what_was_seen_of_a_device_is_remembered(site: Site) -> None:
    """The second update of a device that does not ack `@4#` waits for a pause and not for the grace before it."""

    async def script(dial: Dial, listener: Listener) -> float:
        await (await dial()).update(acks_verdict=False)
        start = now()
        await (await dial()).update(acks_verdict=False)
        return now() - start

    took, rows = simulate(site, script)

    assert 5 + PAUSE <= took <= 5 + PAUSE + 2 * SWEEP_INTERVAL + 1e-6  # two deadlines, each met by a sweep
    assert statuses(rows) == ["SUCCESSFUL"] * 2


def test_d05_binds_later_sessions_too(site: Site) -> None:
    """`@4#` never shares a write with the first record, also where the device is known not to ack it."""

    async def script(dial: Dial, listener: Listener) -> bytes:
        await (await dial()).update(acks_verdict=False)
        peer = await dial()
        return await peer.identify(acks_verdict=False)

    verdict, _ = simulate(site, script)

    assert verdict == b"@4#"


def test_what_is_remembered_is_forgotten_when_it_made_a_device_wait(site: Site) -> None:
    """A device that acked `@4#` once and no longer does times out once, and is updated the next time."""

    async def script(dial: Dial, listener: Listener) -> tuple[bytes, Update]:
        await (await dial()).update()
        peer = await dial()
        await peer.identify(acks_verdict=False)
        rest = await peer.rest()
        return rest, await (await dial()).update(acks_verdict=False)

    (rest, update), rows = simulate(site, script)

    assert rest == b""
    assert blink(1) == update
    assert statuses(rows) == ["SUCCESSFUL", "TIMEOUT_CONNECTION", "SUCCESSFUL"]


def test_the_registrys_handshake_wins_over_the_servers(site: Site) -> None:
    """What is said of one device holds for it alone."""
    site.register(f"{MCUID},blink_1.s19,11,handshake=immediate", f"{OTHER_MCUID},blink_2.s19,12")

    async def script(dial: Dial, listener: Listener) -> tuple[bytes, float]:
        peer = await dial()
        await peer.identify(acks_verdict=False)
        first = await peer.frame()
        other = await dial()
        await other.identify(OTHER_MCUID, acks_verdict=False)
        return first, (await end_of(other))[1]

    (first, waited), _ = simulate(site, script, handshake=Handshake.WAIT)

    assert blink(1).records[0] == first
    assert met(TIMES["ack_timeout"], waited)


# --- who may come, who must go


def test_the_newest_session_wins_again_and_again(site: Site) -> None:
    """Of ten connections of one device the last one is served, and never are two live."""

    async def script(dial: Dial, listener: Listener) -> tuple[list[bytes], Update]:
        rests = []
        peer = await dial()
        await peer.identify()
        for _ in range(9):
            await peer.frame()
            newer = await dial()
            await newer.identify()
            rests.append(await peer.rest())
            peer = newer
        records, end = await peer.records()
        peer.send(b"@")
        return rests, Update(b"@4#", records, end, await peer.rest())

    (rests, update), rows = simulate(site, script)

    assert rests == [b""] * 9
    assert blink(1) == update
    assert statuses(rows) == ["SUPERSEDED"] * 9 + ["SUCCESSFUL"]


def test_a_refused_session_supersedes_nobody(site: Site) -> None:
    """A device whose entry became unservable keeps the session that goes on."""

    async def script(dial: Dial, listener: Listener) -> tuple[Update, Update]:
        peer = await dial()
        await peer.identify()
        site.register(f"{MCUID},missing.s19,11")
        refused = await (await dial()).update()
        records, end = await peer.records()
        peer.send(b"@")
        return refused, Update(b"@4#", records, end, await peer.rest())

    (refused, update), _ = simulate(site, script)

    assert Update(b"@0#") == refused
    assert blink(1) == update


def test_the_limit_turns_away_without_a_frame(site: Site) -> None:
    """Who finds no room is closed at once and may come again; room that is free is given away."""

    async def script(dial: Dial, listener: Listener) -> tuple[tuple[bytes, float], Update]:
        first, second = await dial(), await dial()
        await first.identify()
        turned_away = await end_of(await dial())
        second.writer.close()
        await asyncio.sleep(1)
        return turned_away, await (await dial()).update(OTHER_MCUID)

    (turned_away, update), rows = simulate(site, script, limit=2)

    assert turned_away == (b"", 0.0)
    assert blink(2) == update
    assert statuses(rows)[:3] == ["LIMIT_REACHED", "CONNECTION_LOST", "SUCCESSFUL"]


def test_a_flood_at_the_limit_does_not_flood_the_log(site: Site) -> None:
    """A hundred connections turned away are a handful of lines."""

    async def script(dial: Dial, listener: Listener) -> None:
        await (await dial()).identify()
        for _ in range(100):
            await (await dial()).rest()

    simulate(site, script, limit=1)

    assert site.log().count("turned away") == 7
    assert "LIMIT_REACHED" not in site.log()


def test_more_sessions_a_second_than_allowed_are_turned_away(site: Site) -> None:
    """A second's worth is served at once, the rest is closed without a frame; a second later there is room again."""

    async def script(dial: Dial, listener: Listener) -> tuple[list[Update | bytes], Update]:
        flood: list[Update | bytes] = []
        for mcuid in (MCUID, OTHER_MCUID, MCUID, OTHER_MCUID):
            peer = await dial()
            try:
                flood.append(await peer.update(mcuid))
            except (asyncio.IncompleteReadError, ConnectionError):
                flood.append(b"")
        await asyncio.sleep(1)
        return flood, await (await dial()).update()

    (flood, later), rows = simulate(site, script, sessions_per_second=2.0)

    assert [blink(1), blink(2), b"", b""] == flood
    assert blink(1) == later
    assert ["SUCCESSFUL", "SUCCESSFUL", "LIMIT_REACHED", "LIMIT_REACHED", "SUCCESSFUL"] == statuses(rows)
    assert "Limit reached: more than 2 sessions a second; 1 turned away" in site.log()


def test_the_size_of_an_identification_is_limited(site: Site) -> None:
    """What is longer than allowed is refused at its last allowed byte; what is as long is served."""

    async def script(dial: Dial, listener: Listener) -> tuple[bytes, bytes]:
        longest, longer = await dial(), await dial()
        verdict = await longest.identify(MCUID + "7" * (80 - len(MCUID) - 2))
        longer.send(b"@" + MCUID.encode() + b"7" * (79 - len(MCUID)))
        return verdict, await longer.rest()

    verdicts, _ = simulate(site, script, identification_size=80)

    assert (b"@4#", b"@0#") == verdicts


# --- stopping


def test_stopping_lets_live_updates_finish(site: Site) -> None:
    """New connections are refused, who has not been allowed is cut, who is being updated finishes."""

    async def script(dial: Dial, listener: Listener) -> tuple[float, Update, float]:
        live, idle = await dial(), await dial()
        await live.identify()
        stopping = asyncio.create_task(listener.stop(60))
        cut_after = (await end_of(idle))[1]
        with pytest.raises(ConnectionRefusedError):
            await dial()
        records, end = await live.records(pause=0.5)
        live.send(b"@")
        rest = await live.rest()
        await stopping
        return cut_after, Update(b"@4#", records, end, rest), now()

    (cut_after, update, stopped_at), rows = simulate(site, script)

    assert cut_after == 0.0
    assert blink(1) == update
    assert 43 <= stopped_at < 44
    assert statuses(rows) == ["SERVER_STOPPED", "SUCCESSFUL"]


def test_stopping_cuts_updates_at_its_deadline(site: Site) -> None:
    """An update that goes on for too long is cut without a frame when the time is over."""

    async def script(dial: Dial, listener: Listener) -> tuple[bytes, float]:
        peer = await dial()
        await peer.identify()
        stopping = asyncio.create_task(listener.stop(35))
        await peer.frame()
        end = await end_of(peer)
        await stopping
        return end

    (rest, waited), rows = simulate(site, script)

    assert (rest, waited) == (b"", 35.0)
    assert statuses(rows) == ["SERVER_STOPPED"]


def test_stopping_can_be_cut_short(site: Site) -> None:
    """What a second signal does: everything that still goes on is cut at once."""

    async def script(dial: Dial, listener: Listener) -> float:
        peer = await dial()
        await peer.identify()
        stopping = asyncio.create_task(listener.stop(60))
        await asyncio.sleep(3)
        listener.cut_all()
        await stopping
        return now()

    stopped_at, rows = simulate(site, script)

    assert 3 <= stopped_at < 4
    assert statuses(rows) == ["SERVER_STOPPED"]


def test_stopping_waits_for_a_refusal_to_arrive(site: Site) -> None:
    """A refused device that does not close is given its time to read, and no more."""

    async def script(dial: Dial, listener: Listener) -> tuple[bytes, float]:
        peer = await dial()
        peer.send(b"?")
        verdict = await peer.take(3)
        await listener.stop(60)
        return verdict, now()

    (verdict, stopped_at), _ = simulate(site, script)

    assert verdict == b"@0#"
    assert stopped_at <= LINGER + SWEEP_INTERVAL + 0.02
