"""A device that meets every requirement of the catalogue: a bootloader, 512 KiB of flash in a file, one session a run.

Its methods are the steps of the protocol, so small that a broken device is a subclass of a few lines
(`broken_devices.py`). The flash is written through with each record, as a kill of the process is its power cut. The
sector of the vector table is erased first and programmed last, when the image was found good: until then it is in the
buffer of one sector that the protocol allows, so nothing half written can ever be started.
"""

import argparse
import contextlib
import json
import os
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FLASH_BYTES: Final = 512 * 1024
APPLICATION: Final = 0x4000
"""Where the bootloader ends and the application's flash begins, with its vector table."""
SECTOR: Final = 2048
SRAM_START: Final = 0x1FFF_0000
"""Start of the K60DN512's SRAM (its reference manual, memory map)."""
SRAM_END: Final = 0x2001_0000
BOOTLOADER: Final = b"zoo bootloader\xaa\x55" * (APPLICATION // 16)
"""What the bootloader's flash holds: anything that is told from FF."""
SEAL: Final = APPLICATION + 0x3C0
"""Where a seal is: `kcfg`, start, byte count, CRC (docs/protocol.md, section 6)."""
SEAL_BYTES: Final = 16
ADDRESS_BYTES: Final = {ord("1"): 2, ord("2"): 3, ord("3"): 4}
"""Bytes of a data record's address by the character of its type."""
DIGITS: Final = b"0123456789ABCDEF"
MODEL: Final = {"A": "111415", "B": ""}
"""Digits behind the MCUID: model, hardware and firmware version."""
BACKWARDS: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""
LATE_REFUSAL_S: Final = 2.0
"""Seconds of silence that make `@0#` in the transfer a refusal (docs/protocol.md, section 1)."""


class Failed(Exception):
    """The update cannot go on; the reason is told."""


class Denied(Failed):
    """The server refused."""


class Closed(Failed):
    """The server closed the connection too early."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    host: str
    port: int
    mcuid: str
    flash: Path
    outcome: Path | None = None
    acks_permission: bool = False
    deadline_s: float = 60.0
    revision: str = "A"


class Flash:
    """512 KiB in a file; what is written is there whatever happens to the process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(BOOTLOADER.ljust(FLASH_BYTES, b"\xff"))
        if path.stat().st_size != FLASH_BYTES:
            raise SystemExit(f"{path}: {path.stat().st_size} bytes, expected {FLASH_BYTES}")
        self.file = os.open(path, os.O_RDWR)

    def read(self, start: int, end: int) -> bytes:
        """The bytes of [start, end)."""
        return os.pread(self.file, max(end - start, 0), start)

    def write(self, address: int, data: bytes) -> None:
        """Program bytes."""
        os.pwrite(self.file, data, address)

    def erase(self, sector: int) -> None:
        """Set the sector that begins at an address to FF."""
        self.write(sector, b"\xff" * SECTOR)


class Device:
    """One run: a session, and what came of it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.flash = Flash(options.flash)
        self.image = bytearray(b"\xff" * FLASH_BYTES)
        self.first = FLASH_BYTES
        self.end = 0
        self.erased: set[int] = set()
        self.buffer = b""
        self.transferring = False
        self.until = 0.0

    def run(self) -> int:
        """Play the session and tell its outcome; the exit status."""
        if self.options.outcome is not None:
            self.options.outcome.unlink(missing_ok=True)
        outcome, reason = "updated", None
        try:
            self.session()
        except Denied as error:
            outcome, reason = "refused", str(error)
        except (Failed, OSError) as error:
            outcome, reason = "failed", str(error)
        self.tell(outcome, reason)
        return 0 if outcome == "updated" else 1

    def session(self) -> None:
        """Everything from the connection to the close."""
        with socket.create_connection((self.options.host, self.options.port), self.options.deadline_s) as self.link:
            self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self.update()
            except (Failed, OSError) as error:
                self.on_failure(error)
                raise

    def update(self) -> None:
        """Identification, answer, records, end."""
        self.identify()
        self.read_answer()
        if self.options.acks_permission:
            self.ack()
        while self.read_frame():
            self.ack()
        self.check_image()
        self.accept_image()
        self.ack()
        self.await_close()

    def on_failure(self, error: Exception) -> None:
        """What is left to do in a session that failed: nothing but the close."""

    def tell(self, outcome: str, reason: str | None) -> None:
        """Write the outcome, whole or not at all."""
        if self.options.outcome is None:
            return
        told = {
            "outcome": outcome,
            "reason": reason,
            "booted": self.boots(outcome),
            "image_crc": self.image_crc(),
        }
        part = self.options.outcome.with_suffix(".part")
        part.write_text(json.dumps(told))
        part.replace(self.options.outcome)

    def image_crc(self) -> str | None:
        """The CRC of the good image in flash."""
        held = self.held_image()
        return f"{zlib.crc32(held):08x}" if held is not None else None

    def boots(self, outcome: str) -> bool:
        """Whether the application is started: a device whose update failed in the transfer stays in its bootloader."""
        return self.held_image() is not None and (outcome == "updated" or not self.transferring)

    # --- identification ---

    def identify(self) -> None:
        """Say who we are; a modem's routine appends a line end under revision A."""
        line_end = "\r\n" if self.options.revision == "A" else ""
        self.link.sendall(f"@{self.options.mcuid}{MODEL[self.options.revision]}#{line_end}".encode())
        self.begin_wait()

    def read_answer(self) -> None:
        """`@4#`, or it is over."""
        answer = self.take(1)
        if answer == b"@":
            answer += self.take(1)
        if answer in (b"@4", b"@0"):
            answer += self.take(1)
        if answer == b"@0#":
            raise Denied("refused by the server")
        if answer != b"@4#":
            raise Failed(f"{answer!r} came, expected an answer")
        self.transferring = True
        self.begin_wait()

    # --- transfer ---

    def ack(self) -> None:
        """Ack a frame; the time for the next one begins."""
        self.link.sendall(b"@")
        self.begin_wait()

    def read_frame(self) -> bool:
        """Take one record into flash; False at the end frame."""
        first = self.take(1)
        if first == b"S":
            self.take_record(self.read_record())
            return True
        if first != b"@":
            raise Failed(f"{first!r} came, expected a frame")
        self.read_end()
        return False

    def read_record(self) -> bytes:
        """Type and body of a record, as characters; behind its S."""
        head = self.take_checked(3)
        size = ADDRESS_BYTES.get(head[0])
        if size is None:
            raise Failed(f"record of type {head[:1]!r}, expected 1, 2 or 3")
        count = int(head[1:], 16)
        if count < size + 1:
            raise Failed(f"record with a count of {count}")
        return head + self.take_checked(2 * count)

    def take_record(self, record: bytes) -> None:
        """Check a record and program its data."""
        body = bytes.fromhex(record[1:].decode())
        if sum(body) % 256 != 0xFF:
            raise Failed(f"checksum {body[-1]:02X}, expected {(0xFF - sum(body[:-1])) % 256:02X}")
        behind_address = 1 + ADDRESS_BYTES[record[0]]
        address, data = int.from_bytes(body[1:behind_address]), body[behind_address:-1]
        self.check_range(address, address + len(data))
        self.program(address, data)

    def check_range(self, start: int, end: int) -> None:
        """Refuse what is not wholly inside the application's flash."""
        if start < APPLICATION or end > FLASH_BYTES:
            raise Failed(f"record at [{start:#010x}, {end:#010x}), outside the application's flash")

    def program(self, address: int, data: bytes) -> None:
        """Data into flash, its sectors erased at their first touch; that of the vectors is kept back."""
        if not data:
            return
        end = address + len(data)
        self.image[address:end] = data
        self.first, self.end = min(self.first, address), max(self.end, end)
        self.erase(APPLICATION)
        for sector in range(address - address % SECTOR, end, SECTOR):
            self.erase(sector)
        behind_vectors = max(address, APPLICATION + SECTOR)
        self.flash.write(behind_vectors, data[behind_vectors - address :])

    def erase(self, sector: int) -> None:
        """Erase a sector, once a session."""
        if sector not in self.erased:
            self.flash.erase(sector)
            self.erased.add(sector)

    # --- end ---

    def read_end(self) -> None:
        """The end frame behind its `@`; `@0#` and nothing more is a late refusal."""
        version = self.take(1)
        mark = self.take(1)
        if mark != b"#":
            version, mark = version + mark, self.take(1)
        if version.strip(DIGITS) or mark != b"#":
            raise Failed(f"{b'@' + version + mark!r} came, expected an end frame")
        if version == b"0":
            self.await_second_hash()
        elif self.take(1) != b"#":
            raise Failed("one # behind a version, expected two")

    def await_second_hash(self) -> None:
        """What makes `@0#` an end frame."""
        self.until = time.monotonic() + min(LATE_REFUSAL_S, self.options.deadline_s)
        try:
            last = self.take(1)
        except (Failed, OSError) as error:
            raise Denied("refused by the server in the transfer") from error
        if last != b"#":
            raise Failed(f"{last!r} behind @0#")

    def check_image(self) -> None:
        """Refuse an image that is not whole or could not be started."""
        if self.first >= self.end:
            raise Failed("an end frame, and no data before it")
        if self.first != APPLICATION or self.sealed_end(self.image) != self.end:
            raise Failed("the image has no seal over all of it, or another CRC")
        if not self.vectors_are_sane(self.image[APPLICATION : self.end]):
            raise Failed("the image's vectors are not sane")

    def accept_image(self) -> None:
        """Program the vectors: from here on the image can be started."""
        self.flash.write(APPLICATION, bytes(self.image[APPLICATION : APPLICATION + SECTOR]))

    def await_close(self) -> None:
        """The server closes first."""
        with contextlib.suppress(OSError):
            while self.receive():
                pass

    # --- integrity ---

    def held_image(self) -> bytes | None:
        """The good image in flash."""
        memory = self.flash.read(0, FLASH_BYTES)
        end = self.sealed_end(memory)
        image = memory[APPLICATION:end]
        return image if end and self.vectors_are_sane(image) else None

    def sealed_end(self, memory: bytes | bytearray) -> int:
        """The end of the image that is sealed with the right CRC; 0 for none."""
        tag, start, count, expected = struct.unpack("<4sIII", memory[SEAL : SEAL + SEAL_BYTES])
        end = start + count
        if tag != b"kcfg" or start != APPLICATION or not SEAL + SEAL_BYTES <= end <= FLASH_BYTES:
            return 0
        covered = memory[start : SEAL + 12] + memory[SEAL + SEAL_BYTES : end]
        return int(end) if crc32_mpeg2(covered + bytes(-len(covered) % 4)) == expected else 0

    def vectors_are_sane(self, image: bytes | bytearray) -> bool:
        """Whether an image can be started."""
        stack, reset = struct.unpack("<II", image[:8])
        inside = APPLICATION <= reset - 1 < APPLICATION + len(image)
        return bool(SRAM_START < stack <= SRAM_END and stack % 4 == 0 and reset % 2 == 1 and inside)

    # --- the link ---

    def begin_wait(self) -> None:
        """The time for the server's next frame begins."""
        self.until = time.monotonic() + self.options.deadline_s

    def take(self, count: int) -> bytes:
        """The next bytes, within the deadline."""
        while len(self.buffer) < count:
            if not self.receive():
                raise Closed("the server closed the connection")
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def take_checked(self, count: int) -> bytes:
        """The next characters of a record, each checked as it comes."""
        taken = b""
        while len(taken) < count:
            character = self.take(1)
            if character not in DIGITS:
                raise Failed(f"character {character!r} in a record")
            taken += character
        return taken

    def receive(self) -> bool:
        """Wait for more bytes; False when the server closed."""
        self.link.settimeout(max(self.until - time.monotonic(), 0.000_001))
        data = self.link.recv(4096)
        self.buffer += data
        return bool(data)


def crc32_mpeg2(data: bytes | bytearray) -> int:
    """CRC-32/MPEG-2; 0x0376E6E7 of `123456789`."""
    # zlib's CRC with every byte, and its result, read backwards.
    crc = zlib.crc32(data.translate(BACKWARDS)) ^ 0xFFFF_FFFF
    return int(f"{crc:032b}"[::-1], 2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line of a device."""
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--mcuid", required=True)
    parser.add_argument("--flash", type=Path, required=True, help="512 KiB from address 0; made if it does not exist")
    parser.add_argument("--outcome", type=Path, help="where to tell what came of it, as JSON")
    parser.add_argument("--acks-permission", action="store_true", help="ack @4#")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds for the answer and each next frame")
    parser.add_argument("--revision", choices=("A", "B"), default="A")


def play(args: argparse.Namespace, device: type[Device]) -> int:
    """One session; the exit status."""
    host, _, port = args.server.rpartition(":")
    options = Options(
        host, int(port), args.mcuid, args.flash, args.outcome, args.acks_permission, args.deadline, args.revision
    )
    return device(options).run()
