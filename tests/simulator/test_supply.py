"""The supply: how a cut is named, what counts, and what a session does whose power fails at any of its bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fota_fixtures
from fota_protocol.device import Allowed, DeviceEvent, DeviceSession, Finished, RecordCache, Result
from fota_protocol.formats import load
from fota_protocol.identity import Identification
from fota_protocol.parts import PARTS
from fota_protocol.srecord import SRecord
from fota_simulator.boot import BootPolicy
from fota_simulator.bootloader import Bootloader, bootloader_sectors
from fota_simulator.errors import PowerLost
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.powered import PoweredSession
from fota_simulator.supply import CommandCut, Cut, CutMode, Supply, WireCut, parse_cut

PART = PARTS["MK60DN512"]

cuts = st.one_of(
    st.builds(CommandCut, st.integers(1, 10**9), st.sampled_from(CutMode)), st.builds(WireCut, st.integers(1, 10**9))
)


@given(cuts)
def test_cut_is_read_as_it_prints(cut: Cut) -> None:
    """What a report names can be played again."""
    assert cut == parse_cut(str(cut))


def test_cuts_print_as_the_manual_page_says() -> None:
    """`command:N:when` and `byte:N`."""
    found = [str(cut) for cut in (*(CommandCut(7, mode) for mode in CutMode), WireCut(12))]

    assert ["command:7:before", "command:7:torn", "command:7:after", "byte:12"] == found


@pytest.mark.parametrize(
    "text",
    [
        "", "byte", "byte:", "byte:0", "byte:01", "byte:-1", "byte:1:torn", "byte:1 ", "byte:1\n", "byte:1٣", "Byte:1",
        "command:1", "command:1:", "command:0:torn", "command:1:never", "command:1:TORN", "command::torn", "1", "torn",
        "command:1:before:after", "command:1:torn\n",
    ],
)  # fmt: skip
def test_anything_else_is_no_cut(text: str) -> None:
    """The message quotes it and says what would be one."""
    with pytest.raises(ValueError, match=r"^cut .*, expected command:N:before, .* or byte:N, from 1 up$") as caught:
        parse_cut(text)

    assert repr(text) in str(caught.value)


def commands_through(supply: Supply, count: int) -> list[CutMode | str | None]:
    """What the supply says to so many flash commands, up to the one before which it fails."""
    said: list[CutMode | str | None] = []
    for _ in range(count):
        try:
            said.append(supply.flash_command())
        except PowerLost as lost:
            said.append(str(lost))
            break
    return said


@pytest.mark.parametrize("mode", CutMode)
def test_flash_commands_are_numbered_from_1(mode: CutMode) -> None:
    """The third one is cut, those around it are not."""
    supply = Supply(CommandCut(3, mode))
    said = commands_through(supply, 4)

    if mode is CutMode.BEFORE:
        assert ([None, None, "before flash command 3"], 3) == (said, supply.commands)
    else:
        assert ([None, None, mode, None], 4) == (said, supply.commands)


def test_supply_can_start_counting_later() -> None:
    """So a part of an update can be played as the part that it is of the whole."""
    supply = Supply(CommandCut(12, CutMode.TORN), commands=10)

    assert [None, CutMode.TORN, None] == commands_through(supply, 3)


@pytest.mark.parametrize("cut", [None, WireCut(1)])
def test_supply_that_fails_elsewhere_cuts_no_command(cut: Cut | None) -> None:
    """Nor does one that never fails."""
    assert [None] * 9 == commands_through(Supply(cut), 9)


@pytest.mark.parametrize("cut", [None, CommandCut(1, CutMode.BEFORE)])
def test_supply_that_fails_elsewhere_carries_every_byte(cut: Cut | None) -> None:
    """And counts them."""
    supply = Supply(cut)

    assert ([5, 0, 100], 105) == ([supply.carry(size) for size in (5, 0, 100)], supply.wire_bytes)


@given(st.integers(1, 60), st.lists(st.integers(0, 20), max_size=10))
def test_bytes_pass_up_to_the_one_that_is_cut_however_they_come(number: int, sizes: list[int]) -> None:
    """It and all behind it do not."""
    supply = Supply(WireCut(number))
    passed = [supply.carry(size) for size in sizes]

    assert min(number - 1, sum(sizes)) == sum(passed) == supply.wire_bytes
    assert all(
        done == size or sum(sizes[: i + 1]) >= number for i, (done, size) in enumerate(zip(passed, sizes, strict=True))
    )


def test_dice_are_those_of_the_seed_and_the_command_under_way() -> None:
    """Rolled again they fall alike; for another command or another seed they do not."""
    rolls = []
    for seed, commands in ((1, 0), (1, 0), (1, 1), (2, 0)):
        supply = Supply(seed=seed, commands=commands)
        supply.flash_command()
        rolls.append(supply.dice().getrandbits(64))

    assert rolls[0] == rolls[1]
    assert 3 == len(set(rolls))


# A session on a supply.

RECORDS = [SRecord(3, PART.application_start + 16 * i, bytes([i + 1]) * 16) for i in range(2)]
IDENTIFICATION = b"@0123456789ABCDEF#"
FROM_SERVER = (b"@4#", *(record.encode() for record in RECORDS), b"@01##")
"""A short conversation's frames; the device acks each with one byte."""


class Device:
    """A device on a supply, and what it sent."""

    def __init__(self, supply: Supply) -> None:
        self.flash = Flash(PART, SectorPool(), bootloader_sectors(PART))
        self.inner = DeviceSession(
            Identification("0123456789ABCDEF"), Bootloader(self.flash, BootPolicy.AN2295), cache=RecordCache()
        )
        self.session = PoweredSession(self.inner, supply)
        self.sent = b""

    def play(self) -> PowerLost | None:
        """The whole conversation, or what ended it."""
        try:
            self.sent += self.session.start(0.0)
            for frame in FROM_SERVER:
                self.sent += self.session.receive(frame, 0.0)
        except PowerLost as lost:
            self.sent += lost.sent
            return lost
        return None


def conversation() -> list[tuple[str, int]]:
    """Every byte on the wire, in order, with who sends it."""
    wire = [("device", byte) for byte in IDENTIFICATION]
    for frame in FROM_SERVER:
        wire += [*(("server", byte) for byte in frame), ("device", ord("@"))]
    return wire


def test_conversation_without_a_cut_is_what_the_cuts_are_counted_in() -> None:
    """Its bytes are those of both directions together."""
    supply = Supply()
    device = Device(supply)

    lost = device.play()

    assert lost is None
    assert (len(conversation()), Result.UPDATED) == (
        supply.wire_bytes,
        device.inner.outcome.result if device.inner.outcome else None,
    )
    assert bytes(byte for who, byte in conversation() if who == "device") == device.sent


@pytest.mark.parametrize("number", range(1, len(conversation()) + 1))
def test_power_that_fails_at_a_byte_lets_all_before_it_pass(number: int) -> None:
    """What the device had sent left it, what it had read is done, and nothing behind that is."""
    supply = Supply(WireCut(number))
    device = Device(supply)
    before = conversation()[: number - 1]

    lost = device.play()

    assert f"at byte {number} on the wire" == str(lost)
    assert bytes(byte for who, byte in before if who == "device") == device.sent
    received = sum(who == "server" for who, _ in before)
    whole = sum(len(b"".join(FROM_SERVER[: i + 1])) <= received for i in range(1, len(FROM_SERVER) - 1))
    assert whole == device.inner.records
    assert (number - 1 == len(conversation()) - 1) == (device.inner.outcome is not None)


def test_cut_behind_the_conversation_is_none() -> None:
    """All its bytes pass."""
    assert Device(Supply(WireCut(len(conversation()) + 1))).play() is None


def events_of(session: PoweredSession) -> tuple[DeviceEvent, ...]:
    """They change behind the type checker's back."""
    return session.events


def test_session_on_a_supply_has_the_events_and_the_deadline_of_its_own() -> None:
    """Who drives it sees no difference."""
    device = Device(Supply())
    before = device.session.deadline
    device.session.start(5.0)
    started = device.session.deadline
    device.session.receive(b"@4#", 6.0)
    events = events_of(device.session)
    device.session.events = ()
    device.session.peer_closed(7.0)
    outcome = device.inner.outcome

    assert outcome is not None
    assert before is None
    assert started is not None
    assert (Allowed(),) == events
    assert (Finished(outcome),) == events_of(device.session)
    assert device.inner.deadline == device.session.deadline


def test_silence_ends_a_session_on_a_supply() -> None:
    """Its timeout is the session's."""
    device = Device(Supply())
    device.session.start(0.0)
    deadline = device.session.deadline
    assert deadline is not None

    out = device.session.timeout(deadline)

    assert b"" == out
    assert device.inner.outcome is not None
    assert Result.FAILED is device.inner.outcome.result


def test_flash_command_that_is_cut_ends_a_session_without_an_ack() -> None:
    """Nothing between the flash and whoever drives the device catches it."""

    class Failing(Flash):
        def program(self, address: int, data: bytes) -> None:
            raise PowerLost("during flash command 2")

    flash = Failing(PART, SectorPool())
    inner = DeviceSession(Identification("0"), Bootloader(flash, BootPolicy.SEALED), cache=RecordCache())
    session = PoweredSession(inner, Supply())
    session.start(0.0)
    session.receive(b"@4#", 0.0)
    record = load(fota_fixtures.read("blink_1.s19")).records[1]

    with pytest.raises(PowerLost, match="during flash command 2") as caught:
        session.receive(record.encode(), 0.0)

    assert b"" == caught.value.sent
    assert inner.outcome is None
