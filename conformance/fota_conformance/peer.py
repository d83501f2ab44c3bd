"""The kit's two blocking TCP peers: a device for a server under test, a server for a device under test.

Both are a `Peer`: bytes out, frames in, every wait with a deadline, everything in the wire log. A peer knows no
session: which frame may come now, and what it must say, is the exchange's business. Whatever the other side does wrong
on the wire becomes a `Nonconformance` that says what was sent last, what came and what would have been accepted.
"""

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

from fota_conformance.errors import HarnessError, Nonconformance, NotConnected, WireError
from fota_conformance.wire import LINE_ENDINGS, Frame, Reader, Sender, show
from fota_conformance.wirelog import WireLog

READ_BYTES: Final = 4096
"""Bytes asked of one `recv`."""
BUFFER_LIMIT: Final = 64 * 1024
"""Bytes received and not yet used; a target that sends more ahead of its turn is cut off."""
ACCEPT_SLICE: Final = 0.1
"""Seconds between two looks at whether a device that has not connected yet still runs."""
SEGMENT_PAUSE: Final = 0.05
"""Seconds between two pieces of a frame that make each of them a read of its own on the other side."""
POLL_TIME: Final = 0.001
"""Seconds that looking for bytes takes which are there already."""
SEND_TIMEOUT: Final = 10.0
"""Seconds that the other side may leave our few bytes in its receive buffer."""


class Peer:
    """One end of one TCP connection, played as `role`; closed on leaving its `with` block. `opened` is for the log."""

    def __init__(
        self, link: socket.socket, role: Sender, log: WireLog, clock: Callable[[], float], opened: str
    ) -> None:
        self.log = log
        self._number = log.open(opened)
        self._link = link
        self._role = role
        self._other = Sender.SERVER if role is Sender.DEVICE else Sender.DEVICE
        self._clock = clock
        self._buffer = b""
        self._last_sent = b""
        self._ended = ""
        self._has_received = False
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close our end; the log says so, unless the other side closed first."""
        if self._link.fileno() >= 0 and not self._ended:
            self.log.event("the kit closed the connection", self._number)
        self._link.close()

    @property
    def ended(self) -> str:
        """How the connection ended, as far as it was noticed; empty while it is open."""
        return self._ended

    def reset(self) -> None:
        """Close our end by a TCP reset (RST): what a crashed peer, or a middle box that forgot it, leaves behind."""
        self.log.event("reset by the kit", self._number)
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._link.close()

    def stop_sending(self) -> None:
        """Shut down our sending half (FIN); we still listen."""
        self.log.event("the kit shut down its sending half", self._number)
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    @property
    def has_received(self) -> bool:
        """Whether a byte ever came."""
        return self._has_received

    @property
    def pending(self) -> bytes:
        """Bytes that came and belong to no frame yet; a device's line endings are not counted."""
        if self._role is Sender.SERVER:
            self._buffer = self._buffer.lstrip(LINE_ENDINGS)
        return self._buffer

    def send(self, data: bytes, situation: str) -> None:
        """Send one frame, or bytes that a case wants on the wire."""
        self.log.chunk(self._role, data, self._number)
        self._last_sent = data
        self._link.settimeout(SEND_TIMEOUT)
        try:
            self._link.sendall(data)
        except OSError as error:
            self._ended = self._ended or f"the connection broke ({error.strerror or error})"
            self.log.event(self._ended, self._number)
            raise self.failure(
                situation, came=self._ended, accepted="an open connection, which takes these bytes"
            ) from error

    def offer(self, data: bytes) -> None:
        """Send bytes that the other side may turn away by closing."""
        with contextlib.suppress(Nonconformance):
            self.send(data, "sending what may be turned away")

    def send_pieces(self, pieces: Iterable[bytes], pause_s: float, situation: str) -> None:
        """Send bytes in segments of their own, with a pause between two of them."""
        for index, piece in enumerate(pieces):
            if index:
                time.sleep(pause_s)
            self.send(piece, situation)

    def send_cut(self, frame: bytes, cuts: Iterable[int], situation: str) -> None:
        """Send a frame cut at some places, ascending: each piece in a segment of its own, which is read as such."""
        places = [0, *cuts, len(frame)]
        self.send_pieces([frame[start:end] for start, end in itertools.pairwise(places)], SEGMENT_PAUSE, situation)

    def read(self, reader: Reader, within_s: float, situation: str, accepted: str) -> Frame:
        """The next frame; anything else, or nothing in time, is a `Nonconformance`."""
        frame = self.try_read(reader, within_s, situation, accepted)
        if frame is not None:
            return frame
        rest = f"{show(self.pending)}, which is no whole frame, and then " if self.pending else ""
        silence = self._ended or f"nothing for {within_s:g} s"
        raise self.failure(situation, came=rest + silence, accepted=accepted)

    def try_read(self, reader: Reader, within_s: float, situation: str, accepted: str) -> Frame | None:
        """The next frame, or `None` if none came in time or the connection ended."""
        deadline = self._clock() + within_s
        while True:
            try:
                frame = reader(self.pending)
            except WireError as error:
                raise self.failure(situation, came=str(error), accepted=accepted) from error
            if frame is not None:
                self._buffer = self._buffer[len(frame.raw) :]
                return frame
            if not self._receive(deadline):
                return None

    def stay_quiet(self, for_s: float, situation: str, accepted: str) -> None:
        """Demand that nothing comes, and that the connection stays open, for a while."""
        deadline = self._clock() + for_s
        while not self.pending and self._receive(deadline):
            pass
        if self.pending or self._ended:
            raise self.failure(situation, came=show(self.pending) if self.pending else self._ended, accepted=accepted)

    def expect_nothing_pending(self, situation: str, accepted: str) -> None:
        """Demand that no byte came along with the last frame."""
        if self.pending:
            raise self.failure(situation, came=show(self.pending), accepted=accepted)

    def expect_close(self, within_s: float, situation: str, accepted: str = "") -> None:
        """Demand that the other side closes, without another byte."""
        accepted = accepted or f"a close within {within_s:g} s, and not a byte more"
        deadline = self._clock() + within_s
        while not self.pending and self._receive(deadline):
            pass
        if self.pending:
            raise self.failure(situation, came=show(self.pending), accepted=accepted)
        if not self._ended:
            raise self.failure(situation, came=f"nothing for {within_s:g} s, still open", accepted=accepted)

    def poll(self) -> bytes:
        """Bytes that are there already and belong to no frame yet."""
        self._receive(self._clock() + POLL_TIME)
        return self.pending

    def drain(self, for_s: float) -> bytes:
        """Whatever comes until the other side closes, at most for a while."""
        deadline = self._clock() + for_s
        while self._receive(deadline):
            pass
        came, self._buffer = self._buffer, b""
        return came

    def failure(self, situation: str, *, came: str, accepted: str) -> Nonconformance:
        """A `Nonconformance` that knows what this peer sent last."""
        sent = show(self._last_sent) if self._last_sent else "nothing yet"
        if self.log.connections > 1:
            sent += f" (on connection #{self._number} of {self.log.connections})"
        return Nonconformance(situation, sent=sent, came=came, accepted=accepted)

    def _receive(self, deadline: float) -> bool:
        """Wait for more bytes until a deadline; False if none came or the connection is over."""
        left = deadline - self._clock()
        if self._ended or left <= 0:
            return False
        self._link.settimeout(left)
        try:
            data = self._link.recv(READ_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            self._ended = f"the connection broke ({error.strerror or error})"
            self.log.event(self._ended, self._number)
            return False
        if not data:
            self._ended = f"the {self._other.value} closed the connection"
            self.log.event(self._ended, self._number)
            return False
        self.log.chunk(self._other, data, self._number)
        self._has_received = True
        self._buffer += data
        if len(self._buffer) > BUFFER_LIMIT:
            raise self.failure("bytes ahead of their turn", came=f"over {BUFFER_LIMIT} bytes", accepted="one frame")
        return True


def connect(address: tuple[str, int], within_s: float, log: WireLog, clock: Callable[[], float]) -> Peer:
    """A device of the kit, connected to a server under test."""
    host, port = address
    try:
        link = socket.create_connection(address, timeout=within_s)
    except OSError as error:
        log.event(f"no connection to {host}:{port}: {error.strerror or error}")
        raise Nonconformance(
            f"connecting to the server at {host}:{port}",
            sent="a TCP connection request",
            came=str(error.strerror or error),
            accepted=f"a connection within {within_s:g} s",
        ) from error
    return Peer(link, Sender.DEVICE, log, clock, f"connected to {host}:{port}")


class Listener:
    """The place where the kit's server waits for one device under test."""

    def __init__(self, listening: socket.socket, log: WireLog, clock: Callable[[], float]) -> None:
        self._listening = listening
        self._log = log
        self._clock = clock

    @property
    def port(self) -> int:
        """The port that devices connect to."""
        return int(self._listening.getsockname()[1])

    def accept(self, within_s: float, has_ended: Callable[[], bool]) -> Peer:
        """Wait for the device; in vain once its command has ended."""
        deadline = self._clock() + within_s
        while True:
            # Asked before the look, so that a device that connected and ended at once is not missed.
            ended = has_ended()
            self._listening.settimeout(ACCEPT_SLICE)
            with contextlib.suppress(TimeoutError):
                link, (host, port, *_) = self._listening.accept()
                opened = f"the device connected from {host}:{port}"
                return Peer(link, Sender.SERVER, self._log, self._clock, opened)
            if ended:
                raise NotConnected("the device's command ended before the device connected")
            if self._clock() >= deadline:
                raise NotConnected(f"the device did not connect within {within_s:g} s")


@contextlib.contextmanager
def listen(host: str, port: int, log: WireLog, clock: Callable[[], float]) -> Iterator[Listener]:
    """Listen at an address (port 0: any free one) while the `with` block lasts."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address[:2], family=family, backlog=8)
    except OSError as error:
        raise HarnessError(f"the kit's server cannot listen at {host}:{port}: {error.strerror or error}") from error
    with listening:
        yield Listener(listening, log, clock)
