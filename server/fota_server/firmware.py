"""The firmware store: images by file name, from one folder and never from outside it.

Files are read and checked once per content (path, time of change, size), and the images are shared by all sessions. A
session keeps the image it was given, whatever happens to the file afterwards.
"""

import contextlib
import os
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Final, NamedTuple

from fota_protocol.errors import ImageError, ImageFault, UnknownPartError
from fota_protocol.formats import MAX_FILE_SIZE, load
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import DEFAULT_PART
from fota_protocol.parts import part as find_part
from fota_protocol.status import Status

from .errors import TemporaryError, UnservableError
from .registry import RegistryEntry

CACHE_BYTES: Final = 256 * 1024 * 1024
"""How much firmware text the store keeps in mind; sessions keep what they serve all the same."""

_STATUS: Final = {
    ImageFault.UNREADABLE: Status.UNABLE_BUFFERING_CODE,
    ImageFault.BAD_RECORD: Status.INVALID_CODE_CHUNK,
    ImageFault.OVERLAP: Status.INVALID_CODE_CHUNK,
    ImageFault.OUT_OF_RANGE: Status.INVALID_CODE_CHUNK,
    ImageFault.INCOMPLETE: Status.BUFFERING_CODE_INCOMPLETE,
    ImageFault.NOT_SEALABLE: Status.INVALID_CODE_CHUNK,
}


class Key(NamedTuple):
    """What makes an image. A file that was replaced differs in `inode` or `changed_ns` at least."""

    filename: str
    path: str
    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    size: int
    pack: bool
    part: str | None


class FirmwareStore:
    """The firmware folder. `allow_unterminated` serves S-record files without a termination record."""

    def __init__(self, folder: Path, *, allow_unterminated: bool = False) -> None:
        self._folder = folder.resolve()
        self._allow_unterminated = allow_unterminated
        self._images: OrderedDict[Key, FirmwareImage | UnservableError] = OrderedDict()
        self._sizes = 0

    def key(self, entry: RegistryEntry) -> Key:
        """Which image `entry` means at this moment; cheap. Raises `UnservableError` when there is no such file."""
        path, status = self._find(entry.filename)
        return Key(
            filename=str(path.relative_to(self._folder)).encode("utf-8", "backslashreplace").decode(),
            path=str(path),
            device=status.st_dev,
            inode=status.st_ino,
            modified_ns=status.st_mtime_ns,
            changed_ns=status.st_ctime_ns,
            size=status.st_size,
            pack=entry.pack,
            part=entry.part,
        )

    def cached(self, key: Key) -> FirmwareImage | None:
        """The image if it was loaded before; raises `UnservableError` if it was and cannot be served."""
        found = self._images.get(key)
        if found is None:
            return None
        self._images.move_to_end(key)
        if isinstance(found, UnservableError):
            raise UnservableError(str(found), status=found.status)  # not the same object: it would gather tracebacks
        return found

    def read(self, key: Key) -> FirmwareImage | UnservableError:
        """Read and check the file; blocks, touches no state of the store, and may run in another thread."""
        name, part_name = key.filename, key.part
        try:
            with open(key.path, "rb") as file:
                before = os.fstat(file.fileno())
                data = file.read(MAX_FILE_SIZE + 1)
                after = os.fstat(file.fileno())
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                message = f"firmware {name}: changed while it was read"
                return TemporaryError(message, status=Status.UNABLE_BUFFERING_CODE)
            image = load(data, allow_unterminated=self._allow_unterminated)
            part = find_part(part_name or DEFAULT_PART)
            if part_name is not None:
                image.check_fits(part)
            return image.pack(part.sector_size) if key.pack else image
        except OSError as error:
            return TemporaryError(f"firmware {name}: {error.strerror}", status=Status.UNABLE_BUFFERING_CODE)
        except ImageError as error:
            return UnservableError(f"firmware {name}: {error}", status=_STATUS[error.fault])
        except UnknownPartError as error:
            return UnservableError(f"firmware {name}: {error}", status=Status.UNPROPER_FILE_FORMAT)

    def remember(self, key: Key, found: FirmwareImage | UnservableError) -> None:
        """Keep what `read` returned, and forget what was used least recently when it gets too much.

        What could not be read at that moment is not kept.
        """
        if isinstance(found, TemporaryError):
            return
        if key not in self._images:
            self._sizes += key.size
        self._images[key] = found
        self._images.move_to_end(key)
        while self._sizes > CACHE_BYTES and len(self._images) > 1:
            forgotten, _ = self._images.popitem(last=False)
            self._sizes -= forgotten.size

    def _find(self, filename: str) -> tuple[Path, os.stat_result]:
        """Where the file is, and what is known of it; raises `UnservableError`."""
        if "\0" in filename:
            raise UnservableError("firmware: NUL in the file name", status=Status.UNABLE_BUFFERING_CODE)
        if os.path.basename(filename) == filename:
            # What is in the folder itself and no link leads nowhere else. One look is enough, and most files are such.
            path = self._folder / filename
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    return path, status
        path = self._path(filename)
        try:
            status = os.stat(path)
        except OSError as error:
            raise UnservableError(f"firmware {filename}: {error.strerror}", status=Status.MISSED_FILENAME) from error
        if not stat.S_ISREG(status.st_mode):
            raise UnservableError(f"firmware {filename}: not a file", status=Status.MISSED_FILENAME)
        return path, status

    def _path(self, filename: str) -> Path:
        path = Path(os.path.realpath(self._folder / filename))
        if not path.is_relative_to(self._folder):
            raise UnservableError(
                f"firmware {filename}: leads outside the firmware folder", status=Status.UNABLE_BUFFERING_CODE
            )
        return path
