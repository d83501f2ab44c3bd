"""A server that meets every requirement of the catalogue, in both revisions and all three handshakes.

A session is an object in a thread of its own; its methods are the steps of the protocol, in the order of their use, and
so small that a broken server is a subclass of a few lines (`broken_servers.py`). Everything is checked before `@4#`;
behind it only acks are counted: `sent` frames that want one, `acked` of them. A session that went on without the ack of
`@4#` is not `sure` whether the device is one ack ahead.
"""

import argparse
import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

ALLOWED: Final = b"@4#"
DENIED: Final = b"@0#"
LINE_ENDS: Final = b"\r\n"
ID_LIMIT: Final = 1024
"""Bytes that an identification may have (docs/protocol.md, section 2)."""
WHOLE_ID: Final = {"A": re.compile(rb"@([0-9]{25})[0-9]*#"), "B": re.compile(rb"@([0-9A-Fa-f]{1,64})#")}
"""An identification; the group is the MCUID."""
PART_OF_ID: Final = {"A": re.compile(rb"(@[0-9]*)?"), "B": re.compile(rb"(@[0-9A-Fa-f]{0,64})?")}
"""What may still become one."""
MCUID: Final = {"A": re.compile(r"[0-9]{25}"), "B": re.compile(r"[0-9A-Fa-f]{1,64}")}
VERSION: Final = re.compile(r"[0-9A-Fa-f]{1,2}")
RECORD: Final = re.compile(r"S([0-9])((?:[0-9A-F]{2})+)")
ADDRESS_BYTES: Final = {"0": 2, "1": 2, "2": 3, "3": 4, "5": 2, "6": 3, "7": 4, "8": 3, "9": 2}
"""Bytes of the address (S5, S6: of the number of records) by the type of a record; S4 is reserved."""
Wait: TypeAlias = Literal["identification", "permission", "record", "end"]
"""What a session waits for: an identification, or the ack of the frame that is named."""
DRAIN_S: Final = 0.2
"""Seconds in which what the device still sends is read, so that closing does not reset the connection under our last
frame."""


class Refused(Exception):
    """The device cannot be served, and will not be tomorrow: `@0#`."""


class Ended(Exception):
    """The session is over, without another frame."""


class Gone(Ended):
    """The device closed the connection."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    host: str
    port: int
    registry: Path
    firmware: Path
    logs: Path | None = None
    revision: str = "A"
    handshake: str = "immediate"
    deadline_s: float = 30.0
    grace_s: float = 5.0


class Session:
    """One connection, from accept to close."""

    def __init__(self, server: "Server", link: socket.socket) -> None:
        self.server = server
        self.options = server.options
        self.number = server.accepted
        self.link = link
        self.buffer = b""
        self.mcuid = ""
        self.sent = 0
        self.acked = 0
        self.sure = True

    def run(self) -> None:
        """The whole session; whatever happens in it ends here."""
        try:
            self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.play()
            self.note("updated")
        except (Ended, OSError) as reason:
            self.note(f"ended: {reason}")
        finally:
            self.close()
            self.server.leave(self)

    def play(self) -> None:
        """Identification, answer, transfer."""
        try:
            self.mcuid = self.identify()
            frames = self.frames()
        except Refused as reason:
            self.note(f"refused: {reason}")
            return self.refuse()
        if not self.server.admit(self):
            raise Ended("the server is stopping")
        self.begin()
        self.transfer(frames)
        return self.finish()

    # --- identification ---

    def identify(self) -> str:
        """The MCUID, once its identification is whole."""
        until = self.now() + self.patience("identification")
        while (mcuid := self.recognise()) is None:
            if not self.read(until):
                raise Ended("no identification within the deadline")
        return mcuid

    def recognise(self) -> str | None:
        """The MCUID, if the buffer begins with an identification; bytes behind it stay in the buffer."""
        whole = WHOLE_ID[self.options.revision].match(self.buffer)
        if whole is not None and whole.end() <= ID_LIMIT:
            self.buffer = self.buffer[whole.end() :]
            return whole[1].decode().upper()
        if len(self.buffer) > ID_LIMIT or not PART_OF_ID[self.options.revision].fullmatch(self.buffer):
            raise Refused(f"malformed identification {self.buffer[:80]!r}")
        return None

    def refuse(self) -> None:
        """Turn the device away for good."""
        self.link.sendall(DENIED)

    # --- registry and firmware ---

    def frames(self) -> list[bytes]:
        """All that will be sent behind `@4#`: the records and the end frame."""
        file, version = self.entry()
        return [*self.records(self.lines(self.path(file))), self.end_frame(version)]

    def entry(self) -> tuple[str, str]:
        """File and version that the registry has for this device."""
        for line in self.registry_lines():
            fields = self.fields(line)
            if len(fields) >= 3 and MCUID[self.options.revision].fullmatch(fields[0]):
                mcuid, file, version, *_ = fields
                if mcuid.upper() == self.mcuid:
                    return file, version
        raise Refused(f"unknown device {self.mcuid}")

    def registry_lines(self) -> list[str]:
        """The registry as it is now."""
        return self.options.registry.read_bytes().decode("utf-8", "replace").split("\n")

    def fields(self, line: str) -> list[str]:
        """The fields of one line of the registry."""
        return [field.strip() for field in line.partition("#")[0].split(",")]

    def end_frame(self, version: str) -> bytes:
        """The end frame of a version."""
        if not VERSION.fullmatch(version):
            raise Refused(f"version {version!r}, expected 1 or 2 hexadecimal digits")
        return f"@{version.upper()}##".encode()

    def path(self, file: str) -> Path:
        """Where a file is, if it is in the firmware folder."""
        folder = self.options.firmware.resolve()
        try:
            path = (folder / file).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise Refused(f"file {file!r}: {error}") from error
        if not path.is_relative_to(folder):
            raise Refused(f"file {file!r} is outside {folder}")
        return path

    def lines(self, path: Path) -> list[str]:
        """The lines of a file that are not blank, with any line end."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Refused(f"file {path}: {error}") from error
        return [line for line in re.split("\r\n|\r|\n", content.decode("ascii", "replace")) if line.strip()]

    def records(self, lines: list[str]) -> list[bytes]:
        """The data records of a file that can be served whole."""
        records: list[bytes] = []
        cells: dict[int, int] = {}
        terminated = False
        for number, line in enumerate(lines, start=1):
            if terminated:
                raise Refused(f"line {number} is behind the termination")
            kind, address, data = self.check(line.upper())
            if kind in "123":
                records.append(line.upper().encode())
                for at, byte in enumerate(data, start=address):
                    if cells.setdefault(at, byte) != byte:
                        raise Refused(f"line {number}: overlap with other bytes at {at:#010x}")
            elif kind in "56" and address != len(records):
                raise Refused(f"line {number}: S{kind} says {address} records, {len(records)} precede it")
            terminated = kind in "789"
        if not cells:
            raise Refused("no data")
        if not terminated:
            raise Refused("no termination")
        return records

    def check(self, line: str) -> tuple[str, int, bytes]:
        """Type, address and data of a line that is a record."""
        match = RECORD.fullmatch(line)
        if match is None or match[1] not in ADDRESS_BYTES:
            raise Refused(f"{line!r} is no record")
        kind, body = match[1], bytes.fromhex(match[2])
        behind_address = 1 + ADDRESS_BYTES[kind]
        if len(body) != 1 + body[0] or len(body) <= behind_address:
            raise Refused(f"{line!r} has a wrong count")
        if sum(body) % 256 != 0xFF:
            raise Refused(f"{line!r} has a wrong checksum")
        return kind, int.from_bytes(body[1:behind_address]), body[behind_address:-1]

    # --- transfer ---

    def begin(self) -> None:
        """Say that the update begins, and hear the device about it."""
        self.send(ALLOWED)
        if self.options.handshake == "wait":
            self.await_acks(1, self.patience("permission"))
        elif self.options.handshake == "immediate" or not self.acks_come(1, self.options.grace_s):
            self.sure = False

    def transfer(self, frames: Iterable[bytes]) -> None:
        """Each frame after the ack of the one before."""
        for frame in frames:
            self.send(frame)
            within_s = self.patience("end" if frame.startswith(b"@") else "record")
            self.await_acks(self.sent if self.sure else self.sent - 1, within_s)

    def finish(self) -> None:
        """A device that may be one ack ahead gets a grace for its last one."""
        self.acks_come(self.sent, self.options.grace_s)

    def send(self, frame: bytes) -> None:
        """One frame that wants an ack; acks that came before it are not its own."""
        self.look()
        self.count_acks()
        self.link.sendall(frame)
        self.sent += 1

    def await_acks(self, wanted: int, within_s: float) -> None:
        """Demand so many acks since the beginning."""
        if not self.acks_come(wanted, within_s):
            raise Ended(f"no ack of frame {self.sent} within {within_s:g} s")

    def acks_come(self, wanted: int, within_s: float) -> bool:
        """Whether so many acks come in time."""
        until = self.now() + within_s
        while self.acked < wanted:
            if not self.read(until):
                return False
            self.count_acks()
        return True

    def count_acks(self) -> None:
        """Take what came for acks; anything else, or one too many, is the end."""
        came, self.buffer = self.buffer.translate(None, LINE_ENDS), b""
        self.acked += len(came)
        if came.strip(b"@"):
            raise Ended(f"{came[:80]!r} in the place of an ack")
        if self.acked > self.sent:
            raise Ended(f"{self.acked} acks of {self.sent} frames")
        self.sure = self.sure or self.acked == self.sent

    # --- the link ---

    def patience(self, wait: Wait) -> float:
        """Seconds that a wait may take."""
        return self.options.deadline_s

    def read(self, until: float) -> bool:
        """Wait for more bytes; False when none came in time."""
        self.link.settimeout(max(until - self.now(), 0.000_001))
        try:
            return self.came(self.link.recv(ID_LIMIT))
        except TimeoutError:
            return False

    def look(self) -> None:
        """Take what is there already."""
        self.link.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self.came(self.link.recv(ID_LIMIT)):
                pass
        self.link.settimeout(self.options.deadline_s)

    def came(self, data: bytes) -> bool:
        """More bytes from the device, or its close."""
        if not data:
            raise Gone("the device closed the connection")
        self.buffer += data
        return True

    def cut(self) -> None:
        """End this session from another one's thread."""
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close, and let our last frame arrive."""
        until = self.now() + DRAIN_S
        with contextlib.suppress(OSError, Ended):
            self.link.shutdown(socket.SHUT_WR)
            while self.read(until):
                self.buffer = b""
        self.link.close()

    def note(self, text: str) -> None:
        """A line for the log."""
        if self.options.logs is not None:
            with (self.options.logs / "server.log").open("a") as log:
                log.write(f"{time.strftime('%H:%M:%S')} {self.mcuid or 'somebody'} {text}\n")

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()


class Server:
    """Everything that sessions share: who is there, which is a device's newest, and whether it is over."""

    def __init__(self, options: Options, session: type[Session] = Session) -> None:
        self.options = options
        self.session = session
        self.lock = threading.Lock()
        self.threads: dict[Session, threading.Thread] = {}
        self.live: dict[str, Session] = {}
        self.stopping = False
        self.accepted = 0
        self.listening = socket.create_server((options.host, options.port), backlog=128)

    def accept(self) -> None:
        """Start a session for each connection, until it is over."""
        while not self.stopping:
            try:
                link, _ = self.listening.accept()
            except OSError:
                continue
            self.accepted += 1
            session = self.session(self, link)
            thread = threading.Thread(target=session.run)
            with self.lock:
                self.threads[session] = thread
                thread.start()

    def admit(self, session: Session) -> bool:
        """Let a session begin its update: the newest of a device goes on, an older one is cut."""
        with self.lock:
            other = self.live.get(session.mcuid)
            if self.stopping or (other is not None and other.number > session.number):
                return False
            self.live[session.mcuid] = session
        if other is not None:
            other.cut()
        return True

    def leave(self, session: Session) -> None:
        """A session is over."""
        with self.lock:
            del self.threads[session]
            if self.live.get(session.mcuid) is session:
                del self.live[session.mcuid]

    def stop(self) -> None:
        """Turn everybody away who is not being updated, and let the others end."""
        with self.lock:
            self.stopping = True
            threads = dict(self.threads)
            live = set(self.live.values())
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for session in threads.keys() - live:
            session.cut()
        for thread in threads.values():
            thread.join()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line of a server."""
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--registry", type=Path, required=True, help="MCUID,filename,version per line")
    parser.add_argument("--firmware", type=Path, required=True, help="the folder of the files that it names")
    parser.add_argument("--logs", type=Path, help="a folder for server.log")
    parser.add_argument("--revision", choices=("A", "B"), default="A")
    parser.add_argument("--handshake", choices=("wait", "immediate", "auto"), default="immediate")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds for identification, ack and end ack")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds for an ack that may be missing")


def serve(args: argparse.Namespace, session: type[Session], server: type[Server]) -> int:
    """Serve until SIGTERM."""
    options = Options(
        args.host,
        args.port,
        args.registry,
        args.firmware,
        args.logs,
        args.revision,
        args.handshake,
        args.deadline,
        args.grace,
    )
    # Blocked in every thread, so that only the wait below takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    running = server(options, session)
    threading.Thread(target=running.accept, daemon=True).start()
    print("listening", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    running.stop()
    return 0
