"""Servers with one wrong idea each, everything else as in `server.py`. D1 to D20 are the reference server's.

A class's docstring says what it does wrong; `faults.py` says which requirement must notice.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from threading import Lock, Semaphore
from typing import IO, ClassVar, Final

from fota_conformance.zoo.server import (
    ALLOWED,
    ID_LIMIT,
    LINE_ENDS,
    MCUID,
    PART_OF_ID,
    Ended,
    Gone,
    Options,
    Refused,
    Server,
    Session,
    Wait,
)

FOREVER: Final = 3600.0
"""Seconds that nobody waits for in a test."""
TERMINATION: Final = "S9030000FC"
DATA: Final = ("S1", "S2", "S3")
LONG_LINES: Final = 300
"""Lines that the reference server reads of a file (D4)."""


def die() -> None:
    """The end of the whole process, as an error that nobody caught ends it."""
    os._exit(1)


# --- the reference server's ---


class FirstImage(Session):
    """Every session sends the image of the first one."""

    first: ClassVar[list[bytes]] = []

    def frames(self) -> list[bytes]:
        frames = super().frames()
        if not self.first:
            self.first.extend(frames[:-1])
        return [*self.first, frames[-1]]


class OneClient(Session):
    """One client at a time, and a silent one is held for ever."""

    turn: ClassVar = Lock()

    def run(self) -> None:
        with self.turn:
            super().run()

    def patience(self, wait: Wait) -> float:
        return FOREVER if wait == "identification" else super().patience(wait)


class FirstLineDropped(Session):
    """The first line of a file is dropped, whatever it is."""

    def lines(self, path: Path) -> list[str]:
        return super().lines(path)[1:]


class MissingFileKills(Session):
    """A missing file is found out after `@4#`, and ends the process."""

    def lines(self, path: Path) -> list[str]:
        if not path.exists():
            self.link.sendall(ALLOWED)
            die()
        return super().lines(path)


class LongFileKills(Session):
    """A file of more than 300 lines is found out after `@4#`, and ends the process."""

    def records(self, lines: list[str]) -> list[bytes]:
        if len(lines) > LONG_LINES:
            self.link.sendall(ALLOWED)
            die()
        return super().records(lines)


class OneSegment(Session):
    """`@4#` and the first record leave in one segment."""

    def begin(self) -> None:
        self.sent, self.sure = 1, False

    def transfer(self, frames: Iterable[bytes]) -> None:
        first, *others = frames
        super().transfer([ALLOWED + first, *others])


class WrongAckKills(Session):
    """A wrong ack ends the process."""

    def count_acks(self) -> None:
        if self.buffer.strip(b"@\r\n"):
            die()
        super().count_acks()


class GoesOnAfterError(Session):
    """After a connection broke, the next session of the device goes on with the next record."""

    places: ClassVar[dict[str, int]] = {}

    def transfer(self, frames: Iterable[bytes]) -> None:
        rest = list(frames)
        place = min(self.places.pop(self.mcuid, 0), len(rest) - 1)
        try:
            super().transfer(rest[place:])
        except (Gone, OSError):
            self.places[self.mcuid] = place + self.sent - 1
            raise


class NotTextKills(Session):
    """An identification that is not text ends the process."""

    def recognise(self) -> str | None:
        if not self.buffer.isascii():
            die()
        return super().recognise()


class Unchecked(Session):
    """Nothing in a file is checked; a record is sent up to its first odd character."""

    def records(self, lines: list[str]) -> list[bytes]:
        return [re.findall("[S0-9A-F]+", line.upper())[0].encode() for line in lines if line.upper().startswith(DATA)]


class AnyPath(Session):
    """The registry's file name is joined to the folder, unchecked."""

    def path(self, file: str) -> Path:
        return self.options.firmware / file


class SpacesKept(Session):
    """White space is part of a registry's field."""

    def fields(self, line: str) -> list[str]:
        return line.rstrip("\r\n").split(",")


class LowerCaseCut(Session):
    """A record is cut at its first lower-case letter."""

    def records(self, lines: list[str]) -> list[bytes]:
        super().records(lines)
        return [re.findall("S[0-9A-F]*", line)[0].encode() for line in lines if line.startswith(DATA)]


class LongVersionEndless(Session):
    """With a version of three digits or more no end frame is sent."""

    def end_frame(self, version: str) -> bytes:
        return super().end_frame(version) if len(version) <= 2 else b""

    def transfer(self, frames: Iterable[bytes]) -> None:
        super().transfer(frame for frame in frames if frame)


class VersionCut(Session):
    """A version is cut at its first lower-case letter: `1a` is sent as `1`."""

    def end_frame(self, version: str) -> bytes:
        super().end_frame(version)
        return f"@{re.findall('^[0-9A-F]*', version)[0]}##".encode()


class TwoSessions(Session):
    """The same device may have two sessions at once."""

    def cut(self) -> None:
        pass


class OneRead(Session):
    """An identification is what one read gives."""

    def identify(self) -> str:
        mcuid = super().recognise() if self.read(self.now() + self.patience("identification")) else None
        if mcuid is None:
            raise Refused("malformed")
        return mcuid


class MalformedLineHides(Session):
    """One malformed line of the registry hides every device behind it."""

    def registry_lines(self) -> list[str]:
        return list(takewhile(self.is_fine, super().registry_lines()))

    def is_fine(self, line: str) -> bool:
        """Whether a line is an entry, a comment or blank."""
        fields = self.fields(line)
        entry = len(fields) >= 3 and MCUID[self.options.revision].fullmatch(fields[0])
        return fields == [""] or bool(entry)


class IdLineEndMalformed(Session):
    """A line end behind an identification makes it malformed."""

    def recognise(self) -> str | None:
        mcuid = super().recognise()
        if mcuid is not None and self.buffer[:1] in (b"\r", b"\n"):
            raise Refused("malformed")
        return mcuid


class AckLineEndWrong(Session):
    """A line end behind an ack makes it a wrong one."""

    def count_acks(self) -> None:
        if self.sent > 1 and self.buffer.strip(b"@"):
            raise Ended(f"{self.buffer!r} in the place of an ack")
        super().count_acks()


class CloseKills(Session):
    """An orderly close by the device in mid-update ends the process."""

    def transfer(self, frames: Iterable[bytes]) -> None:
        try:
            super().transfer(frames)
        except Gone:
            die()


class LateRefusal(Session):
    """A file that cannot be served is refused by `@0#` behind `@4#`."""

    def frames(self) -> list[bytes]:
        self.entry()
        try:
            return super().frames()
        except Refused:
            self.link.sendall(ALLOWED)
            raise


class LeakyLog(Session):
    """Every session leaves a log file open."""

    logs: ClassVar[list[IO[str]]] = []

    def play(self) -> None:
        self.logs.append(open(os.devnull, "w"))  # noqa: SIM115 - the leak is the point
        super().play()


# --- identification ---


class DeniesAll(Session):
    """Known devices are refused."""

    def entry(self) -> tuple[str, str]:
        raise Refused("everybody")


class UnknownServed(Session):
    """An unknown device gets the first entry's image."""

    def entry(self) -> tuple[str, str]:
        try:
            return super().entry()
        except Refused:
            _, file, version, *_ = self.fields(self.registry_lines()[0])
            return file, version


class UnknownDropped(Session):
    """An unknown device is dropped without `@0#`."""

    def refuse(self) -> None:
        if not self.mcuid:
            super().refuse()


class MalformedDropped(Session):
    """A malformed identification is dropped without `@0#`."""

    def refuse(self) -> None:
        if self.mcuid:
            super().refuse()


class DenialStays(Session):
    """After `@0#` the connection stays open."""

    def refuse(self) -> None:
        super().refuse()
        self.read(self.now() + FOREVER)


class WaitsForHash(Session):
    """A malformed identification is refused at its `#` only."""

    def recognise(self) -> str | None:
        return super().recognise() if b"#" in self.buffer or len(self.buffer) > ID_LIMIT else None


class SuffixCounts(Session):
    """Digits behind the 25th are part of the MCUID."""

    def recognise(self) -> str | None:
        before = self.buffer
        return None if super().recognise() is None else before[1 : before.index(b"#")].decode()


class DecimalOnly(Session):
    """An MCUID with letters is malformed."""

    def recognise(self) -> str | None:
        mcuid = super().recognise()
        if mcuid is not None and not mcuid.isdecimal():
            raise Refused("malformed")
        return mcuid


class EndlessId(Session):
    """An identification may be of any length."""

    def recognise(self) -> str | None:
        return None if PART_OF_ID[self.options.revision].fullmatch(self.buffer) else super().recognise()


class EarlyBytesDropped(Session):
    """Bytes behind the identification, before any frame was sent, are dropped without consequence."""

    def begin(self) -> None:
        self.look()
        self.buffer = b""
        super().begin()


# --- handshake ---


class WaitsForNobody(Session):
    """The first record does not wait for the ack of `@4#`."""

    def begin(self) -> None:
        self.send(ALLOWED)
        self.sure = False


class WaitsForAck(Session):
    """The first record waits for the ack of `@4#`."""

    def begin(self) -> None:
        self.send(ALLOWED)
        self.await_acks(1, self.patience("permission"))


class UnaskedAckEnds(Session):
    """A device that acks `@4#` unasked is dropped."""

    def begin(self) -> None:
        self.send(ALLOWED)
        if self.acks_come(1, 0.2):
            raise Ended("unasked ack")
        self.sure = False


class NoGrace(Session):
    """A session that may lack one ack is closed at once."""

    def finish(self) -> None:
        pass


# --- transfer ---


class RecordsSwapped(Session):
    """Two records change places."""

    def records(self, lines: list[str]) -> list[bytes]:
        first, second, third, *others = super().records(lines)
        return [first, third, second, *others]


class RecordDropped(Session):
    """The last record is not sent."""

    def records(self, lines: list[str]) -> list[bytes]:
        return super().records(lines)[:-1]


class HeaderSent(Session):
    """The S0 is sent, too."""

    def records(self, lines: list[str]) -> list[bytes]:
        return [line.encode() for line in lines if line.startswith("S0")] + super().records(lines)


class LineEnds(Session):
    """Records are sent with a line end."""

    def records(self, lines: list[str]) -> list[bytes]:
        return [record + b"\r\n" for record in super().records(lines)]


class TwoPerAck(Session):
    """Two records are sent for each ack."""

    def transfer(self, frames: Iterable[bytes]) -> None:
        *records, end = frames
        super().transfer([b"".join(records[at : at + 2]) for at in range(0, len(records), 2)] + [end])


class CarriageReturnKept(Session):
    """The CR of a file's line end is part of its line."""

    def lines(self, path: Path) -> list[str]:
        with path.open(newline="\n") as file:
            return [line.rstrip("\n") for line in file]


class LastLineDropped(Session):
    """A last line without a line end is not read."""

    def lines(self, path: Path) -> list[str]:
        lines = super().lines(path)
        return lines if path.read_bytes().endswith((b"\r", b"\n")) else lines[:-1]


class CaseKept(Session):
    """A file in lower case is sent in lower case."""

    def records(self, lines: list[str]) -> list[bytes]:
        super().records(lines)
        return [line.encode() for line in lines if line.upper().startswith(DATA)]


class WrongVersion(Session):
    """The end frame carries another version than the registry."""

    def end_frame(self, version: str) -> bytes:
        return b"@%02X##" % (int(super().end_frame(version)[1:-2], 16) ^ 1)


class NoEnd(Session):
    """No end frame is sent."""

    def transfer(self, frames: Iterable[bytes]) -> None:
        super().transfer(list(frames)[:-1])


class EndTwice(Session):
    """The end frame is sent twice."""

    def transfer(self, frames: Iterable[bytes]) -> None:
        *records, end = frames
        super().transfer([*records, end, end])


class NeverCloses(Session):
    """After the ack of the end frame the connection stays open."""

    def finish(self) -> None:
        super().finish()
        self.read(self.now() + FOREVER)


class ClosesEarly(Session):
    """The connection is closed behind the end frame, without its ack."""

    def transfer(self, frames: Iterable[bytes]) -> None:
        *records, end = frames
        super().transfer(records)
        self.send(end)

    def finish(self) -> None:
        pass


# --- acks ---


class AnyByteAcks(Session):
    """Any byte is taken for an ack."""

    def count_acks(self) -> None:
        self.buffer = re.sub(rb"[^\r\n]", b"@", self.buffer)
        super().count_acks()


class WrongAcksDropped(Session):
    """What is not an ack is dropped, and the right one waited for."""

    def count_acks(self) -> None:
        self.buffer = re.sub(rb"[^@]", b"", self.buffer)
        super().count_acks()


class SurplusUsed(Session):
    """An ack that came too early is taken for the next frame's."""

    def count_acks(self) -> None:
        came, self.buffer = self.buffer.translate(None, LINE_ENDS), b""
        if came.strip(b"@"):
            raise Ended(f"{came!r} in the place of an ack")
        self.acked += len(came)
        self.sure = self.sure or self.acked >= self.sent


class SurplusDropped(Session):
    """Acks that are too many are dropped without consequence."""

    def count_acks(self) -> None:
        came = self.buffer.translate(None, b"\r\n")
        wanted = self.sent - self.acked
        self.buffer = came if came.strip(b"@") else came[:wanted]
        super().count_acks()


# --- deadlines ---


class SilentForEver(Session):
    """A client that says nothing is never closed."""

    def patience(self, wait: Wait) -> float:
        return FOREVER if wait == "identification" else super().patience(wait)


class IdByteBuysTime(Session):
    """Each byte of an identification begins the deadline anew."""

    def identify(self) -> str:
        while (mcuid := self.recognise()) is None:
            if not self.read(self.now() + self.patience("identification")):
                raise Ended("no identification within the deadline")
        return mcuid


class PermissionAckForEver(Session):
    """The ack of `@4#` may take for ever."""

    def patience(self, wait: Wait) -> float:
        return FOREVER if wait == "permission" else super().patience(wait)


class RecordAckForEver(Session):
    """The ack of a record may take for ever."""

    def patience(self, wait: Wait) -> float:
        return FOREVER if wait == "record" else super().patience(wait)


class SilenceIsAck(Session):
    """A record that is not acked within the deadline counts as acked."""

    def await_acks(self, wanted: int, within_s: float) -> None:
        if not self.acks_come(wanted, within_s):
            self.acked = wanted


class LineEndBuysTime(Session):
    """Each line end begins the deadline of an ack anew."""

    def acks_come(self, wanted: int, within_s: float) -> bool:
        while self.acked < wanted:
            if not self.read(self.now() + within_s):
                return False
            self.count_acks()
        return True


class EndAckForEver(Session):
    """The ack of the end frame may take for ever."""

    def patience(self, wait: Wait) -> float:
        return FOREVER if wait == "end" else super().patience(wait)


class Impatient(Session):
    """A device is closed at a third of the deadline."""

    def patience(self, wait: Wait) -> float:
        return super().patience(wait) / 3


# --- sessions ---


class ImagesMixed(Session):
    """All sessions send the image of the one that began last."""

    newest: ClassVar[list[bytes]] = []

    def transfer(self, frames: Iterable[bytes]) -> None:
        self.newest[:] = frames
        super().transfer(self.from_newest(len(self.newest)))

    def from_newest(self, count: int) -> Iterator[bytes]:
        """As many frames as this session's image has, of whatever image is the newest by then."""
        for index in range(count):
            yield self.newest[min(index, len(self.newest) - 1)]


class OneFallsAllFall(Session):
    """A wrong ack ends every session."""

    def count_acks(self) -> None:
        try:
            super().count_acks()
        except Ended:
            for other in list(self.server.live.values()):
                other.cut()
            raise


class OldestWins(Session):
    """A device that identifies itself again is turned away while its older session is open."""

    def frames(self) -> list[bytes]:
        if self.mcuid in self.server.live:
            raise Ended("already being updated")
        return super().frames()


class CloseIsAck(Session):
    """The device's close of its sending half is taken for acks without end."""

    def read(self, until: float) -> bool:
        try:
            return super().read(until)
        except Gone:
            self.buffer += b"@"
            return True

    def look(self) -> None:
        with suppress(Gone):
            super().look()

    def close(self) -> None:
        self.link.close()


class ResetKills(Session):
    """A connection that is reset ends the process."""

    def run(self) -> None:
        try:
            self.play()
        except ConnectionResetError:
            die()
        except (Ended, OSError):
            pass
        finally:
            self.close()
            self.server.leave(self)


class SlotsLost(Session):
    """There are eight places, and a device that vanishes keeps its own."""

    places: ClassVar = Semaphore(8)

    def play(self) -> None:
        if not self.places.acquire(blocking=False):
            raise Ended("no room")
        super().play()
        self.places.release()


# --- files and registry ---


class BadLinesSkipped(Session):
    """Records that are not valid are left out, the others sent."""

    def records(self, lines: list[str]) -> list[bytes]:
        return super().records([line for line in lines if self.is_valid(line)])

    def is_valid(self, line: str) -> bool:
        """Whether a line is a good record."""
        with suppress(Refused):
            return bool(self.check(line.upper()))
        return False


class CutFileServed(Session):
    """A file without a termination is served."""

    def records(self, lines: list[str]) -> list[bytes]:
        terminated = any(line.upper().startswith(("S7", "S8", "S9")) for line in lines)
        return super().records(lines if terminated else [*lines, TERMINATION])


class CountIgnored(Session):
    """The number of records that S5 or S6 states is not looked at."""

    def records(self, lines: list[str]) -> list[bytes]:
        return super().records([line for line in lines if not line.upper().startswith(("S5", "S6"))])


class ContradictionServed(Session):
    """Each record is looked at alone: overlaps with other bytes are served."""

    def records(self, lines: list[str]) -> list[bytes]:
        data = [line for line in lines if line.upper().startswith(DATA)]
        return [record for line in data for record in Session.records(self, [line, TERMINATION])]


class NothingServed(Session):
    """A file without data is served: an end frame, and nothing before it."""

    def records(self, lines: list[str]) -> list[bytes]:
        return super().records(lines) if any(line.upper().startswith(DATA) for line in lines) else []


class LinksFollowed(Session):
    """Symbolic links out of the firmware folder are followed."""

    def path(self, file: str) -> Path:
        path = Path(os.path.normpath(self.options.firmware.absolute() / file))
        if not path.is_relative_to(self.options.firmware.absolute()):
            raise Refused(f"file {file!r} is outside the folder")
        return path


class RecordsSorted(Session):
    """Records are sent by ascending address, not in the file's order."""

    def records(self, lines: list[str]) -> list[bytes]:
        return sorted(super().records(lines), key=lambda record: self.check(record.decode())[1])


class S3Unknown(Session):
    """S3 records are taken for mistakes."""

    def check(self, line: str) -> tuple[str, int, bytes]:
        if line.startswith("S3"):
            raise Refused("S3")
        return super().check(line)


class ReadsOnTheWay(Session):
    """The file is read again for each record."""

    def transfer(self, frames: Iterable[bytes]) -> None:
        *records, end = frames
        super().transfer(self.read_again(len(records)))
        super().transfer([end])

    def read_again(self, count: int) -> Iterator[bytes]:
        """The records that are in the file by the time they are needed."""
        for index in range(count):
            try:
                lines = self.lines(self.path(self.entry()[0]))
                yield [line.upper().encode() for line in lines if line.upper().startswith(DATA)][index]
            except (Refused, IndexError) as error:
                raise Ended("the file has changed") from error


class CommentEndsRegistry(Session):
    """The registry ends at its first comment or blank line."""

    def registry_lines(self) -> list[str]:
        return list(takewhile(lambda line: line.strip() and not line.startswith("#"), super().registry_lines()))


# --- stopping ---


class StopsAtOnce(Server):
    """SIGTERM ends the process in mid-update."""

    def stop(self) -> None:
        die()


class StoppingRefuses(Server):
    """While it stops, the server refuses new devices by `@0#`."""

    refusing = False

    def admit(self, session: Session) -> bool:
        if self.refusing:
            session.refuse()
            raise Ended("the server is stopping")
        return super().admit(session)

    def stop(self) -> None:
        self.refusing = True
        for session, thread in list(self.threads.items()):
            if session in self.live.values():
                thread.join()
        super().stop()


class LockStays(Server):
    """A lock file that a killed server left keeps the next one from starting."""

    def __init__(self, options: Options, session: type[Session] = Session) -> None:
        self.lock_file = options.registry.with_suffix(".lock")
        try:
            self.lock_file.touch(exist_ok=False)
        except FileExistsError:
            raise SystemExit(f"{self.lock_file} exists: another server runs") from None
        super().__init__(options, session)

    def stop(self) -> None:
        super().stop()
        self.lock_file.unlink()
