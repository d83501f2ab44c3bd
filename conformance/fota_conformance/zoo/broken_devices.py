"""Devices with one wrong idea each, everything else as in `device.py`.

A class's docstring says what it does wrong; `faults.py` says which requirement must notice.
"""

import time
from typing import Final

from fota_conformance.zoo.device import (
    ADDRESS_BYTES,
    APPLICATION,
    DIGITS,
    FLASH_BYTES,
    SEAL,
    SEAL_BYTES,
    SECTOR,
    Closed,
    Denied,
    Device,
    Failed,
    Flash,
    Options,
)

FOREVER: Final = 3600.0
"""Seconds that nobody waits for in a test."""
LINE_BUFFER: Final = 64
"""Bytes of a record that a device with a short line buffer takes."""
UNIT: Final = 4
"""Bytes of a program unit."""


def peek(device: Device, count: int) -> bytes:
    """The next bytes, which stay in the buffer."""
    taken = device.take(count)
    device.buffer = taken + device.buffer
    return taken


# --- identification ---


class Babbles(Device):
    """It sends a greeting before its identification."""

    def identify(self) -> None:
        self.link.sendall(b"+CONNECT OK\r\n")
        super().identify()


class SpeaksUnasked(Device):
    """It sends an ack before it is answered."""

    def identify(self) -> None:
        super().identify()
        self.link.sendall(b"@")


class DeniedTalks(Device):
    """It acks its denial."""

    def read_answer(self) -> None:
        try:
            super().read_answer()
        except Denied:
            self.link.sendall(b"@")
            raise


class ErasesFirst(Device):
    """It erases its application before it is answered."""

    def identify(self) -> None:
        for sector in range(APPLICATION, FLASH_BYTES, SECTOR):
            self.flash.erase(sector)
        super().identify()


class DeniedSaysUpdated(Device):
    """It tells `updated` when it was denied."""

    def tell(self, outcome: str, reason: str | None) -> None:
        super().tell("updated" if outcome == "refused" else outcome, reason)


class UnansweredHangs(Device):
    """It does not end when its server closes without an answer."""

    def on_failure(self, error: Exception) -> None:
        if isinstance(error, Closed) and not self.transferring:
            time.sleep(FOREVER)


class PermissionInOneRead(Device):
    """`@4#` must come in one segment."""

    def read_answer(self) -> None:
        self.receive()
        if len(self.buffer) < 3:
            raise Failed(f"{self.buffer!r} came, expected an answer")
        super().read_answer()


class FrameDropped(Device):
    """What comes in one segment with `@4#` is dropped."""

    def read_answer(self) -> None:
        super().read_answer()
        self.buffer = b""


# --- transfer ---


class DoubleAck(Device):
    """Every record is acked twice."""

    def ack(self) -> None:
        super().ack()
        if self.end:
            self.link.sendall(b"@")


class EarlyAck(Device):
    """A record is acked before its last character."""

    early = False

    def take_checked(self, count: int) -> bytes:
        if count <= 3:
            return super().take_checked(count)
        taken = super().take_checked(count - 1)
        super().ack()
        self.early = True
        return taken + super().take_checked(1)

    def ack(self) -> None:
        if not self.early:
            super().ack()
        self.early = False


class BytesLost(Device):
    """Sixteen bytes of an image that was found good do not reach the flash."""

    def accept_image(self) -> None:
        super().accept_image()
        self.flash.write(APPLICATION + 0x100, b"\xff" * 16)


class NeverErases(Device):
    """Sectors are not erased: what is left of the old image stays around the new one."""

    def erase(self, sector: int) -> None:
        pass


class RecordInOneRead(Device):
    """A record must come in one segment."""

    def take_checked(self, count: int) -> bytes:
        if len(self.buffer) < count:
            raise Failed("a record that is not whole")
        return super().take_checked(count)


class S2Unknown(Device):
    """S2 records are not taken."""

    def read_record(self) -> bytes:
        if peek(self, 1) == b"2":
            raise Failed("record of type 2")
        return super().read_record()


class ShortLineBuffer(Device):
    """Records of more than 64 bytes are not taken."""

    def read_record(self) -> bytes:
        record = super().read_record()
        if len(record) > 2 * LINE_BUFFER:
            raise Failed("record too long")
        return record


class PartialUnitLost(Device):
    """Of a record that begins inside a program unit, the bytes up to the next unit are lost."""

    def program(self, address: int, data: bytes) -> None:
        lost = -address % UNIT
        super().program(address + lost, data[lost:])


class AscendingOnly(Device):
    """A record below the one before is not taken."""

    def program(self, address: int, data: bytes) -> None:
        if address < self.end:
            raise Failed("record out of order")
        super().program(address, data)


class FirstByteStays(Device):
    """A byte that is programmed already stays, though the record that has another is acked."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.programmed: set[int] = set()

    def program(self, address: int, data: bytes) -> None:
        cells = enumerate(data, start=address)
        kept = bytes(self.image[at] if at in self.programmed else byte for at, byte in cells)
        self.programmed.update(range(address, address + len(data)))
        super().program(address, kept)


class ErasesAll(Device):
    """The whole application's flash is erased, not only the sectors of the image."""

    def erase(self, sector: int) -> None:
        for every in range(APPLICATION, FLASH_BYTES, SECTOR):
            super().erase(every)


class ClearsBitsOnly(Device):
    """Nothing is erased, and programming only clears bits: the new image is mixed with the old one."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.flash = UnerasedFlash(options.flash)


class UnerasedFlash(Flash):
    """Flash that nobody erases."""

    def write(self, address: int, data: bytes) -> None:
        old = self.read(address, address + len(data))
        super().write(address, bytes(before & after for before, after in zip(old, data, strict=True)))


class WrongCrcTold(Device):
    """It tells another CRC than its image has."""

    def image_crc(self) -> str | None:
        crc = super().image_crc()
        return None if crc is None else f"{int(crc, 16) ^ 1:08x}"


# --- end frame ---


class EndUnacked(Device):
    """It closes at the end frame, without an ack."""

    def accept_image(self) -> None:
        super().accept_image()
        raise Failed("done")


class FourIsPermission(Device):
    """`@4##` is taken for `@4#`."""

    def read_end(self) -> None:
        if peek(self, 2) == b"4#":
            raise Failed("permission in the transfer")
        super().read_end()


class ZeroIsRefusal(Device):
    """`@0##` is taken for `@0#`."""

    def read_end(self) -> None:
        if peek(self, 2) == b"0#":
            raise Denied("refused by the server in the transfer")
        super().read_end()


class LateRefusalAcked(Device):
    """`@0#` in the transfer is acked."""

    def await_second_hash(self) -> None:
        try:
            super().await_second_hash()
        except Denied:
            self.ack()
            raise


class DecimalEndOnly(Device):
    """A version with letters does not end an update."""

    def read_end(self) -> None:
        if not peek(self, 2).replace(b"#", b"").isdigit():
            raise Failed("no version")
        super().read_end()


class EndAckedEarly(Device):
    """The end frame is acked at its first `#`."""

    def read_end(self) -> None:
        while self.take(1) != b"#":
            pass


class NeverEnds(Device):
    """It does not end when its server closes after the update."""

    def await_close(self) -> None:
        super().await_close()
        time.sleep(FOREVER)


# --- refusals ---


class BadChecksumTaken(Device):
    """A record with a wrong checksum is taken and acked."""

    def take_record(self, record: bytes) -> None:
        body = bytes.fromhex(record[1:-2].decode())
        super().take_record(record[:-2] + b"%02X" % (0xFF - sum(body) % 256))


class BadChecksumKept(Device):
    """A record with a wrong checksum is not acked, but programmed."""

    def take_record(self, record: bytes) -> None:
        body = bytes.fromhex(record[1:-2].decode())
        corrected = record[:-2] + b"%02X" % (0xFF - sum(body) % 256)
        if corrected != record:
            data_begins = 1 + ADDRESS_BYTES[record[0]]
            self.flash.write(int.from_bytes(body[1:data_begins]), body[data_begins:])
        super().take_record(record)


class OddCharactersAcked(Device):
    """A record with a wrong character is acked, and dropped."""

    odd = False

    def take_checked(self, count: int) -> bytes:
        taken = self.take(count)
        if taken.strip(DIGITS):
            self.odd = True
            return b"0" * count
        return taken

    def take_record(self, record: bytes) -> None:
        if not self.odd:
            super().take_record(record)
        self.odd = False


class AddressesWrap(Device):
    """Addresses outside the application's flash wrap into it."""

    def check_range(self, start: int, end: int) -> None:
        pass

    def program(self, address: int, data: bytes) -> None:
        for at, byte in enumerate(data, start=address - APPLICATION):
            super().program(APPLICATION + at % (FLASH_BYTES - APPLICATION), bytes([byte]))


class BootloaderOverwritten(Device):
    """A record for the bootloader's flash is programmed."""

    def check_range(self, start: int, end: int) -> None:
        super().check_range(max(start, APPLICATION), end)

    def program(self, address: int, data: bytes) -> None:
        if address < APPLICATION:
            self.flash.write(address, data)
        else:
            super().program(address, data)


class RefusalStays(Device):
    """After a record that it could not take the connection stays open."""

    def on_failure(self, error: Exception) -> None:
        if isinstance(error, Failed) and not isinstance(error, (Closed, Denied)):
            time.sleep(FOREVER)


class RefusalSaysUpdated(Device):
    """It tells `updated` after a record that it could not take."""

    refused = False

    def on_failure(self, error: Exception) -> None:
        self.refused = isinstance(error, Failed) and not isinstance(error, (Closed, Denied))

    def tell(self, outcome: str, reason: str | None) -> None:
        super().tell("updated" if self.refused else outcome, reason)


class RefusalIsFinal(Device):
    """After a record that it could not take it is never updated again."""

    def session(self) -> None:
        if self.options.flash.with_suffix(".locked").exists():
            raise Failed("locked")
        super().session()

    def on_failure(self, error: Exception) -> None:
        if self.transferring:
            self.options.flash.with_suffix(".locked").touch()


# --- interruptions ---


class CutHangs(Device):
    """It does not end when the connection breaks in mid-update."""

    def on_failure(self, error: Exception) -> None:
        if isinstance(error, (Closed, ConnectionError)) and self.transferring:
            time.sleep(FOREVER)


class CutBoots(Device):
    """After an interrupted update it starts what it holds."""

    def boots(self, outcome: str) -> bool:
        return outcome == "failed" or super().boots(outcome)


class Resumes(Device):
    """After an interrupted update as many records as came before are skipped, as if they were still there."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.place = options.flash.with_suffix(".place")
        self.skip = int(self.place.read_text()) if self.place.exists() else 0
        self.place.unlink(missing_ok=True)
        self.taken = 0

    def program(self, address: int, data: bytes) -> None:
        self.taken += 1
        if self.taken > self.skip:
            super().program(address, data)

    def on_failure(self, error: Exception) -> None:
        if self.taken:
            self.place.write_text(str(self.taken))


class AnswerForEver(Device):
    """It waits for its answer for ever."""

    def begin_wait(self) -> None:
        super().begin_wait()
        if not self.transferring:
            self.until += FOREVER


class FrameForEver(Device):
    """It waits for the next frame for ever."""

    def begin_wait(self) -> None:
        super().begin_wait()
        if self.transferring:
            self.until += FOREVER


class Impatient(Device):
    """It closes at a third of its deadline."""

    def begin_wait(self) -> None:
        self.until = time.monotonic() + self.options.deadline_s / 3


class PowerCutBoots(Device):
    """At its start it takes whatever is in flash for an image."""

    def boots(self, outcome: str) -> bool:
        return outcome == "refused" or super().boots(outcome)


# --- integrity ---


class SealUnchecked(Device):
    """The end frame is acked whatever the image's seal says."""

    def check_image(self) -> None:
        if self.first >= self.end:
            super().check_image()


class HalfIsEnough(Device):
    """Half of a sealed image is accepted: only a whole one's seal is checked."""

    def check_image(self) -> None:
        announced = int.from_bytes(self.image[SEAL + 8 : SEAL + 12], "little")
        if not APPLICATION < self.end < max(APPLICATION + announced, SEAL + SEAL_BYTES):
            super().check_image()


class VectorsUnchecked(Device):
    """Stack pointer and reset vector are not looked at."""

    def vectors_are_sane(self, image: bytes | bytearray) -> bool:
        return True


class BadImageBoots(Device):
    """It starts an image that it did not accept."""

    rejected = False

    def check_image(self) -> None:
        self.rejected = True
        super().check_image()
        self.rejected = False

    def boots(self, outcome: str) -> bool:
        return self.rejected or super().boots(outcome)


class NothingIsUpdate(Device):
    """An end frame without a record is an update."""

    def check_image(self) -> None:
        if self.end:
            super().check_image()

    def accept_image(self) -> None:
        if self.end:
            super().accept_image()
