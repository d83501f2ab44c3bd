"""Files that commands read and write: whole or not at all, with messages instead of tracebacks."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from fota_protocol.errors import ImageError
from fota_protocol.formats import MAX_FILE_SIZE, load
from fota_protocol.image import FirmwareImage

from .errors import UsageError


def read_image(path: Path) -> FirmwareImage:
    """Read a firmware file; raises `UsageError`."""
    try:
        return load(read_bytes(path))
    except ImageError as error:
        raise UsageError(f"firmware {path}: {error}") from error


def read_bytes(path: Path, what: str = "firmware") -> bytes:
    """The content of a file, as much of it as firmware may have and one byte more; raises `UsageError`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write `path` in one step, so that nobody ever reads half of it; raises `UsageError`.

    A link stays one; what is no file (`/dev/stdout`, a pipe) is written into and not replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
            return
        try:
            temporary.write_bytes(content)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def check_writable(path: Path | None) -> None:
    """Raise `UsageError` now if `path` could not be written later, after the work is done."""
    if path is None or str(path) == "-":
        return
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder, expected a file")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no such folder, or not writable")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document to `path`, or to standard output for `-`."""
    text = json.dumps(value, indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        write_file(path, text.encode())
