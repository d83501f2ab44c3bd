"""The update service: who gets what, what is known of devices, and what is told of sessions.

It knows no sockets and no loop. A session's owner asks it for an `Offer` when a device has said who it is, claims the
device (the newest session wins), and reports how the session ended.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from fota_protocol.identity import Identification, McuidFormat
from fota_protocol.image import FirmwareImage
from fota_protocol.server import Handshake, ServerSession
from fota_protocol.status import Status

from .claims import Claimant, Claims
from .errors import UnservableError
from .firmware import FirmwareStore, Key
from .journal import Journal, JournalRow
from .logs import SessionLog, SessionLogs
from .registry import Problem, Registry, RegistryEntry

PROBLEMS_LOGGED: Final = 20
"""Most problems of a registry that are logged one by one."""

REMEMBERED: Final = 200_000
"""Most devices of which it is remembered whether they ack `@4#`, and that they were served once."""

_LEVELS: Final = {
    Status.SUCCESSFUL: logging.INFO,
    Status.LIMIT_REACHED: logging.DEBUG,  # the listener counts them: a flood must not flood the log
}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a device is to get."""

    entry: RegistryEntry
    image: FirmwareImage
    handshake: Handshake
    acks_verdict: bool | None


@dataclass(slots=True)
class SessionNote:
    """What is known of one session while it lasts, for logs and journal."""

    peer: str
    started_at: float
    """Seconds since the epoch."""
    identification: Identification | None = None
    identified_at: float = 0.0
    entry: RegistryEntry | None = None
    image: FirmwareImage | None = None
    offered_at: float = 0.0


class ServedOnce:
    """What `once` devices were served lately: the journal may not have it yet.

    `tell` is called with each of our own; other processes' are heard of by `heard`.
    """

    def __init__(self, tell: Callable[[tuple[str, str, str]], None] = lambda update: None) -> None:
        self._tell = tell
        self._updates: dict[tuple[str, ...], None] = {}

    def __contains__(self, update: tuple[str, str, str]) -> bool:
        return update in self._updates

    def add(self, update: tuple[str, str, str]) -> None:
        """Device, file and version of a success of this process."""
        self.heard([update])
        self._tell(update)

    def heard(self, updates: Iterable[Iterable[str]]) -> None:
        """The same of other processes."""
        self._updates.update((tuple(update), None) for update in updates)
        while len(self._updates) > REMEMBERED:  # the oldest are in the journal by now
            del self._updates[next(iter(self._updates))]


class UpdateService:
    """Decides and remembers. `wall` gives seconds since the epoch."""

    def __init__(
        self,
        registry: Registry,
        store: FirmwareStore,
        journal: Journal,
        session_logs: SessionLogs,
        logger: logging.Logger,
        *,
        handshake: Handshake,
        mcuid_format: McuidFormat = McuidFormat.DECIMAL25,
        wall: Callable[[], float],
        claims: Claims | None = None,
        served: ServedOnce | None = None,
        reports_registry: bool = True,
    ) -> None:
        """`claims` and `served` where other processes serve, too; one of them reports what is wrong with registries."""
        self._registry = registry
        self._store = store
        self._journal = journal
        self._session_logs = session_logs
        self._logger = logger
        self._handshake = handshake
        self._mcuid_format = mcuid_format
        self._wall = wall
        self._claims = claims or Claims()
        self._reports_registry = reports_registry
        self._acks_verdict: OrderedDict[str, bool] = OrderedDict()
        self._served = served or ServedOnce()
        self._known_problems: tuple[Problem, ...] = ()
        self._known_readings = registry.readings
        self.report_registry()

    def identified(self, note: SessionNote, identification: Identification) -> tuple[RegistryEntry, Key]:
        """A device said who it is: which firmware it is to have. Raises `UnservableError`."""
        note.identification = identification
        note.identified_at = self._wall()
        self.report_registry()
        entry = self._registry.find(identification.mcuid)
        if entry is None:
            raise UnservableError("the registry does not know the device", status=Status.CLIENT_UNVERIFIED)
        note.entry = entry
        if entry.once and self._was_updated(entry):
            raise UnservableError("served once, and was", status=Status.NOTHING_TO_DO)
        return entry, self._store.key(entry)

    def cached(self, key: Key) -> FirmwareImage | None:
        """The image if it is loaded; raises `UnservableError` if it cannot be served."""
        return self._store.cached(key)

    @property
    def store(self) -> FirmwareStore:
        """The firmware store."""
        return self._store

    def claim(self, entry: RegistryEntry, claimant: Claimant) -> None:
        """Make `claimant` the session of the device, and close an older one: the newest wins."""
        self._claims.claim(entry.mcuid, claimant)

    def offer(self, note: SessionNote, entry: RegistryEntry, image: FirmwareImage, claimant: Claimant) -> Offer:
        """Claim the device for `claimant`, closing an older session of it, and say what it gets."""
        note.image = image
        note.offered_at = self._wall()
        mcuid = entry.mcuid
        self.claim(entry, claimant)
        return Offer(entry, image, entry.handshake or self._handshake, self._acks_verdict.get(mcuid))

    def ended(self, note: SessionNote, session: ServerSession, claimant: Claimant) -> None:
        """A session is over: remember, log, journal."""
        assert session.outcome is not None
        status, detail = session.outcome.status, session.outcome.detail
        now = self._wall()
        mcuid = note.identification.mcuid if note.identification else None
        entry, image = note.entry, note.image
        if mcuid is not None:
            self._claims.release(mcuid, claimant)
        if mcuid is not None and image is not None:
            self._remember(mcuid, session, status)
        if status is Status.SUCCESSFUL and entry is not None and entry.once:
            self._served.add(_update_of(entry))
        sent = 0 if image is None else sum(map(len, image.frames[: session.records_sent]))
        self._journal.add(
            JournalRow(
                started_at=note.started_at,
                duration_s=max(0.0, now - note.started_at),  # the system's clock may be set back meanwhile
                peer=note.peer,
                mcuid=mcuid,
                suffix=note.identification.suffix if note.identification else "",
                filename=_printable(entry.filename) if entry else None,
                version=entry.version if entry else None,
                image_crc=f"{image.crc32:08X}" if image else None,
                records=len(image.records) if image else 0,
                records_acked=session.records_acked,
                bytes_sent=sent,
                status=int(status),
                status_name=status.name,
                detail=_printable(detail),
            )
        )
        who = mcuid or note.peer
        progress = f" after {session.records_acked} of {len(image.records)} records" if image else ""
        level = _LEVELS.get(status, logging.WARNING)
        message = f"Session of {who} ended: {status.name} ({int(status)}), {detail}{progress}"
        self._logger.log(level, "%s", message)
        # Only devices of the registry get a log of their own: strangers must not fill the disk with names they choose.
        if entry is not None:
            log = self._story(note, entry)
            log.add(now, message, level)
            self._session_logs.write(log)

    def _story(self, note: SessionNote, entry: RegistryEntry) -> SessionLog:
        """A session's log up to its end, told at its end: while it lasts, a line costs a moment and no text."""
        assert note.identification is not None
        log = SessionLog(entry.mcuid, note.started_at)
        log.add(note.started_at, f"Accepted connection from {note.peer}")
        log.add(note.identified_at, f"MCUID {entry.mcuid} {note.identification.suffix}".rstrip())
        image, at = note.image, note.offered_at
        if image is not None:
            log.add(at, f"Allowing update to {entry.mcuid}: {entry.filename}, version {entry.version}")
            log.add(at, f"Image {image.crc32:08X}: {len(image.records)} records, {image.size} bytes")
            for warning in image.warnings:
                log.add(at, warning, logging.WARNING)
            if self._mcuid_format is McuidFormat.HEX and not entry.version.isdecimal():
                warning = f"version {entry.version}: revision B clients end on decimal digits only"
                log.add(at, warning, logging.WARNING)
        return log

    def report_registry(self) -> None:
        """Log what is wrong with the registry and was not before; and that it was read again, or is well again."""
        problems, readings = self._registry.problems, self._registry.readings
        if not self._reports_registry or (problems is self._known_problems and readings == self._known_readings):
            return
        name, known = self._registry.name, self._known_problems
        is_troubled, was_troubled = (bool(some) and not some[0].line for some in (problems, known))
        if not is_troubled and (was_troubled or readings != self._known_readings):
            self._logger.info("registry %s: read again, and in force", name)
        self._known_problems, self._known_readings = problems, readings
        if problems == known:
            return
        told = frozenset(known)
        new = [problem for problem in problems if problem not in told]
        for problem in new[:PROBLEMS_LOGGED]:
            where = f" line {problem.line}" if problem.line else ""
            self._logger.warning("registry %s%s: %s", name, where, problem.message)
        if len(new) > PROBLEMS_LOGGED:
            self._logger.warning("registry %s: %d more problems", name, len(new) - PROBLEMS_LOGGED)

    def _was_updated(self, entry: RegistryEntry) -> bool:
        update = _update_of(entry)
        return update in self._served or self._journal.was_updated(*update)

    def _remember(self, mcuid: str, session: ServerSession, status: Status) -> None:
        if session.acks_verdict is not None:
            self._acks_verdict[mcuid] = session.acks_verdict
            self._acks_verdict.move_to_end(mcuid)
            if len(self._acks_verdict) > REMEMBERED:
                self._acks_verdict.popitem(last=False)
        elif status is Status.TIMEOUT_CONNECTION:
            self._acks_verdict.pop(mcuid, None)  # what was remembered may be what made it wait


def _update_of(entry: RegistryEntry) -> tuple[str, str, str]:
    """Device, file and version as the journal has them."""
    return entry.mcuid, _printable(entry.filename), entry.version


def _printable(text: str) -> str:
    """`text` as SQLite can take it: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
