"""The AN2295 bootloader of the TWR-K60 boards, as a master on the line meets it: a session without I/O.

Sources: application note AN2295 and the source of its Kinetis slave. In the *hook phase* the board announces itself by
a bare `FC`; the first `FC` that it receives is answered with one and takes it into the *command loop*. There it has no
time-outs and finds no beginnings: a request that is cut short waits for ever and swallows what follows, a byte that is
no command is dropped. Nothing is checked against a range: the flash controller refuses what it refuses, and the
bootloader can be told to erase itself. Only `Q`, or a reset from outside, leaves the loop.

The requests and results are those of `fota_protocol.an2295`; which errors there are is the flash controller's to say.
"""

import enum
from collections.abc import Collection
from typing import Final

from fota_protocol.an2295 import (
    ACK,
    CRC_FLAG,
    FAMILIES,
    HOOK,
    READ_FLAG,
    Command,
    Ident,
    Received,
    read_request,
    result,
    with_crc,
)
from fota_protocol.errors import RemoteProtocolError
from fota_protocol.parts import Part

from ..boot import BootPolicy, Start, at_reset
from ..flash import ERASED, FlashMemory
from .firmware import FOREVER, Leave
from .memory import BoardMemory, Programmed

ANNOUNCE_FIRST: Final = 0.16
"""Seconds from the reset to the first announcement (source of the slave: tick 16 of 10 ms)."""

ANNOUNCE_PERIOD: Final = 0.32
"""Seconds between two announcements (source of the slave: every 32 ticks)."""

HOOK_TIMEOUT: Final = 10.0
"""Seconds from the reset to giving up and starting the application (source of the slave: 1,000 ticks)."""

VERSION: Final = READ_FLAG | CRC_FLAG | 0x8
"""Version byte: Kinetis, with reads and CRCs (AN2295 7.4: C8)."""

FAMILY: Final = FAMILIES[VERSION & 0x0F]

WRITE_SIZE: Final = 128
"""Bytes of a write that the ident asks for (AN2295 7.4); the slave takes up to 255."""

SDIDS: Final = {"FTFL": 0x014A, "FTFE": 0x01CA}
"""Low 16 bits of SIM_SDID by flash module: K60 in 144 pins, of the 100 MHz and of the 150 MHz family."""

_NMI_OFFSET: Final = 8
"""Bytes from the vector table to the word that the hook time-out looks at."""


class Quirk(enum.Enum):
    """What older builds do otherwise."""

    DROP_ODD = "drop-odd"
    """The last bytes of a write whose length is no multiple of 4 are dropped, and the write is ACKed (2013 release)."""
    NACK_THEN_ACK = "nack-then-ack"
    """Flash that does not read as it was programmed is noticed by the software alone, which says NACK, then ACK."""
    PROTECTED = "protected"
    """FPROT protects the bootloader's region: erasing and writing there is refused (the note's own example)."""
    RESET_ON_JUNK = "reset-on-junk"
    """Any byte but FC resets the board in the hook phase (2013 release)."""


def ident_of(part: Part, sdid: int) -> Ident:
    """What the bootloader of `part` says of itself."""
    return Ident(
        version=VERSION,
        sdid=sdid,
        blocks=((part.application_start, part.flash_end),),
        relocated_table=part.application_start,
        original_table=0,
        erase_size=part.sector_size,
        write_size=WRITE_SIZE,
        name="K60",
    )


class _Phase(enum.Enum):
    OFF = "off"
    HOOK = "hook"
    LOOP = "loop"


class An2295Slave:
    """The slave's side of the protocol, from a reset until it is left. Times are seconds of any monotonic clock."""

    def __init__(
        self,
        memory: BoardMemory,
        flash: FlashMemory,
        ident: Ident,
        *,
        quirks: Collection[Quirk] = (),
        has_pin: bool = True,
    ) -> None:
        self.events: tuple[Leave, ...] = ()
        """How it was left; the owner reads and empties it."""
        self._memory = memory
        self._flash = flash
        self._ident = ident.encode()
        self._quirks = frozenset(quirks)
        self._has_pin = has_pin
        self._phase = _Phase.OFF
        self._buffer = bytearray()
        self._started = self._announce_at = self._since = 0.0
        self._gave_up = False

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None before `start` and once it was left."""
        match self._phase:
            case _Phase.OFF:
                return None
            case _Phase.HOOK:
                return self._announce_at if self._gave_up else min(self._announce_at, self._started + HOOK_TIMEOUT)
            case _Phase.LOOP:
                return self._since + FOREVER

    @property
    def is_hooked(self) -> bool:
        """Whether a master has called: it is in the command loop."""
        return self._phase is _Phase.LOOP

    def begins_with(self, *, pin_held: bool) -> Start:
        """What a reset leads to: with the pin, it decides and nothing else; without, the bootloader always runs."""
        return at_reset(self._flash, BootPolicy.AN2295, pin_held=pin_held or not self._has_pin)

    def start(self, now: float) -> bytes:
        """A reset led to the bootloader; there is nothing to send yet."""
        self._phase = _Phase.HOOK
        self._buffer.clear()
        self.events = ()
        self._started = now
        self._gave_up = False
        self._announce_at = now + ANNOUNCE_FIRST
        return b""

    def receive(self, data: bytes, now: float, /) -> bytes:
        """Take what came on the line; returns bytes to send."""
        if self._phase is _Phase.HOOK:
            if Quirk.RESET_ON_JUNK in self._quirks and data and data[0] != ACK:
                self._leave(Leave.RESET)
                return b""
            data = data[data.find(ACK) :] if ACK in data else b""  # anything else is ignored
            if data:
                self._phase = _Phase.LOOP
        if self._phase is not _Phase.LOOP or not data:
            return b""
        self._since = now
        self._buffer += data
        out = bytearray()
        while self.is_hooked and self._buffer:  # quitting leaves it
            if self._buffer[0] == ACK:  # the hook, once more
                del self._buffer[0]
                out += HOOK
                continue
            try:
                received = read_request(bytes(self._buffer[:_LONGEST]), FAMILY, has_crc=True)
            except RemoteProtocolError:
                del self._buffer[0]
                continue
            if received is None:
                break
            del self._buffer[: received.size]
            out += self._answer(received)
        return bytes(out)

    def timeout(self, now: float, /) -> bytes:
        """The deadline has passed: announce, or give up waiting for a master."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return b""
        if self._phase is _Phase.LOOP:
            self._since = now
            return b""
        if not self._gave_up and now >= self._started + HOOK_TIMEOUT:
            self._gave_up = True  # without a vector, it goes on announcing for ever
            if self._has_nmi_vector():
                self._leave(Leave.APPLICATION)
                return b""
        if now < self._announce_at:
            return b""
        missed = int((now - self._announce_at) / ANNOUNCE_PERIOD)
        self._announce_at += (missed + 1) * ANNOUNCE_PERIOD
        return HOOK

    def peer_closed(self, now: float, /) -> None:
        """A line has no end: nothing changes."""

    def _leave(self, how: Leave) -> None:
        self._phase = _Phase.OFF
        self._buffer.clear()
        self.events += (how,)

    def _has_nmi_vector(self) -> bool:
        start = self._memory.part.application_start + _NMI_OFFSET
        return self._memory.read(start, 4) != ERASED * 4

    def _answer(self, received: Received) -> bytes:
        request = received.request
        if not received.is_whole:
            return result(is_good=False, has_crc=True)
        match request.command:
            case Command.IDENT:
                return self._ident
            case Command.ERASE:
                return result(is_good=self._memory.erase_sector(request.address), has_crc=True)
            case Command.WRITE:
                return self._write(request.address, request.data)
            case Command.READ:
                return with_crc(self._memory.read(request.address, request.length))
            case Command.QUIT:
                self._leave(Leave.RESET)
                return result(is_good=True, has_crc=True)

    def _write(self, address: int, data: bytes) -> bytes:
        if Quirk.DROP_ODD in self._quirks:
            data = data[: len(data) // 4 * 4]
        programmed = self._memory.program(address, data)
        blind = Quirk.NACK_THEN_ACK in self._quirks
        if programmed is Programmed.REFUSED or (programmed is Programmed.MISREAD and not blind):
            return result(is_good=False, has_crc=True)
        if self._memory.read(address, len(data)) == data:
            return result(is_good=True, has_crc=True)
        # The source's inner `break` leaves the loop that compares, and not the command.
        return result(is_good=False, has_crc=True) + (result(is_good=True, has_crc=True) if blind else b"")


_LONGEST: Final = 1 + FAMILY.address + 1 + 0xFF + 2
"""Bytes of the longest request."""
