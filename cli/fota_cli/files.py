"""Files that commands read and write: whole or not at all, with messages instead of tracebacks."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

from fota_protocol.errors import ImageError
from fota_protocol.formats import MAX_FILE_SIZE, load
from fota_protocol.image import FirmwareImage

from .errors import UsageError

_DESCRIPTORS: Final = re.compile(r"/dev/fd|/proc/(\d+)(/task/\d+)?/fd")
"""Folders of what this process, or another one, has open."""


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

    A link stays one. What is open already (`/dev/stdout`, `/dev/fd/3`, the file that standard output goes to) is
    written on from where it is, as the shell opened it, and what is no file (a pipe) into; neither is replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if _opened(path) is not None or (path.exists() and not path.is_file() and not path.is_dir()):
            with open_to_write(path) as file:
                file.write(content)
            return
        try:
            temporary.write_bytes(content)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def open_to_write(path: Path) -> BinaryIO:
    """Open `path` to be written bit by bit; what is open already, from where it is. Raises `OSError`."""
    return open_again(path) or path.open("wb")


def open_again(path: Path, *, buffering: int = -1) -> BinaryIO | None:
    """What `path` names, to be written on from where it is, if it is open already; else None. Raises `OSError`."""
    opened = _opened(path)
    if opened is None:
        return None
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # what was printed before comes before
    if isinstance(opened, int):
        return open(opened, "wb", buffering, closefd=False)
    return open(opened, "ab", buffering)  # of another process's, only where its file ends is known


def _opened(path: Path) -> int | str | None:
    """What of the open files `path` names: a descriptor of ours, the name of another process's, or None."""
    link = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(link)
        folder = os.path.realpath(folder)
        link = os.path.join(folder, name)
        if name.isdecimal() and (found := _DESCRIPTORS.fullmatch(folder)) is not None:
            return int(name) if found[1] in (None, str(os.getpid())) else link
        if not os.path.islink(link):
            break
        link = os.path.join(folder, os.readlink(link))
    for descriptor in (1, 2):
        try:
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except OSError:  # no such file yet, or no such output
            continue
    return None


def check_writable(path: Path | None) -> None:
    """Raise `UsageError` now if `path` could not be written later, after the work is done."""
    if path is None or str(path) == "-" or _opened(path) is not None:
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
