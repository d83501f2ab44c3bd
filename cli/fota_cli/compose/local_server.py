"""A server of one's own: a process on a folder with a registry, firmware and a journal.

What the demo and the pytest fixture `ota_server` share. Firmware files are kept below a folder named by their content,
so that two files of one name (the old and the new version, say) get along.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fota_protocol.errors import ImageError
from fota_protocol.formats import dump_srec, load
from fota_protocol.image import FirmwareImage
from fota_protocol.server import Handshake
from fota_server.errors import JournalError
from fota_server.journal import JournalRow, read_journal
from fota_server.registry import RegistryEntry, SqliteRegistry

from .server_process import READY_TIMEOUT, STOP_TIMEOUT, ServerProcess

HOST: Final = "127.0.0.1"

JOURNAL_TIMEOUT: Final = 5.0
"""Seconds that the journal's rows may come later than the end of their sessions: they are written in batches."""

_POLL: Final = 0.02
_FOLDER_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class StoredFirmware:
    """A firmware file in the server's folder."""

    filename: str
    """As the registry names it."""
    image: FirmwareImage | None
    """What is in it; None where it cannot be read, so that the server will refuse it."""


class LocalServer:
    """A server process on `folder`; a context manager that stops it. Every device of it has one entry."""

    def __init__(
        self, folder: Path, options: Mapping[str, object] | None = None, *, ready_timeout_s: float = READY_TIMEOUT
    ) -> None:
        """Start it with `options` by their long names, `{"ack-timeout": 0.5}`; raises `HarnessError`."""
        self.folder = folder
        self._firmware = folder / "firmware"
        self._logs = folder / "logs"
        self._firmware.mkdir()
        self._images: dict[str, FirmwareImage | None] = {}
        self._stored: dict[str, StoredFirmware] = {}
        self._expected = 0
        self._registry = SqliteRegistry(folder / "registry.sqlite")
        own: Mapping[str, object] = {
            "host": HOST,
            "port": 0,
            "registry": folder / "registry.sqlite",
            "firmware": self._firmware,
            "logs": self._logs,
            "journal": folder / "journal.sqlite",
        }
        arguments = [f"--{name}={value}" for name, value in {**own, **(options or {})}.items()]
        try:
            self.process = ServerProcess(arguments, folder, ready_timeout_s=ready_timeout_s)
        except BaseException:
            self._registry.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.process.host

    @property
    def port(self) -> int:
        """The free port that it found."""
        return self.process.port

    def add(
        self,
        mcuid: str,
        firmware: Path | str | FirmwareImage,
        version: str = "01",
        *,
        part: str | None = None,
        handshake: Handshake | str | None = None,
        pack: bool = False,
        once: bool = False,
    ) -> None:
        """Have the server give `firmware` to device `mcuid` from now on.

        A file is taken as it is, also when it is broken; an image is written as S-records. Raises `ValueError` for
        an MCUID, version, part or handshake that cannot be.
        """
        self.add_all(
            [mcuid],
            firmware,
            version,
            part=part,
            handshake=None if handshake is None else Handshake(handshake),
            pack=pack,
            once=once,
        )

    def add_all(
        self,
        mcuids: Iterable[str],
        firmware: Path | str | FirmwareImage,
        version: str = "01",
        *,
        part: str | None = None,
        handshake: Handshake | None = None,
        pack: bool = False,
        once: bool = False,
    ) -> None:
        """Like `add` for many devices, all or none."""
        stored = self._store(firmware)
        entries = [
            RegistryEntry(mcuid, stored.filename, version, part=part, handshake=handshake, pack=pack, once=once)
            for mcuid in mcuids
        ]
        self._registry.put(entries)
        self._images.update((entry.mcuid, stored.image) for entry in entries)

    def image_of(self, mcuid: str) -> FirmwareImage | None:
        """The image that device `mcuid` is to have; None where there is none that can be read."""
        return self._images.get(mcuid)

    def expect_sessions(self, count: int) -> None:
        """Say that `count` more devices have been here, so that `sessions` waits for their rows."""
        self._expected += count

    def sessions(self) -> list[JournalRow]:
        """The journal: a row for every session that is over, oldest first.

        Waits (5 s at most) until the sessions of devices that these fixtures ran are in it.
        """
        until = time.monotonic() + JOURNAL_TIMEOUT
        while len(rows := self._rows()) < self._expected and time.monotonic() < until:
            time.sleep(_POLL)
        return rows

    def log(self) -> str:
        """What the server logged so far."""
        try:
            return (self._logs / "otaserver.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return self.process.output

    def stop(self, timeout_s: float = STOP_TIMEOUT) -> int:
        """Stop the process; returns its exit code. Journal and log stay readable."""
        self._registry.close()
        return self.process.stop(timeout_s)

    def _rows(self) -> list[JournalRow]:
        try:
            return read_journal(self.folder / "journal.sqlite")
        except JournalError:
            if self.process.exit_code is None:
                raise
            return []

    def _store(self, firmware: Path | str | FirmwareImage) -> StoredFirmware:
        if isinstance(firmware, FirmwareImage):
            name = f"{firmware.crc32:08X}.s19"
            content = dump_srec(
                ((segment.start, segment.data) for segment in firmware.segments),
                header=firmware.header,
                start_address=firmware.start_address or 0,
            )
        else:
            name = Path(firmware).name
            content = Path(firmware).read_bytes()
        filename = f"{hashlib.sha256(content).hexdigest()[:_FOLDER_DIGITS]}/{name}"
        stored = self._stored.get(filename)
        if stored is None:
            path = self._firmware / filename
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            try:
                image = load(content)
            except ImageError:
                image = None
            stored = self._stored[filename] = StoredFirmware(filename, image)
        return stored
