"""What a server would refuse, found before it serves: configuration, registry, and every file that the registry names.

It looks through the same registry and the same store as the server, and writes nothing; SQLite leaves its `-wal`
and `-shm` beside a registry that nobody else has open.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from fota_protocol.image import FirmwareImage

from .config import Settings
from .errors import ConfigError, RegistryError, UnservableError
from .firmware import FirmwareStore, Key
from .registry import Registry, open_registry
from .tls import certificates_of


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong (`refused`) or merely unusual, and with what."""

    where: str
    message: str
    refused: bool


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was looked at and found."""

    devices: int
    images: int
    """Different images that they are to have."""
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> int:
        """Devices and lines that would be refused."""
        return sum(finding.refused for finding in self.findings)


def check(settings: Settings, on_progress: Callable[[int, int], None] = lambda done, of: None) -> Preflight:
    """Look at everything; raises an error of `fota_server.errors` where a server would not even start."""
    if not settings.firmware.is_dir():
        raise ConfigError(f"firmware folder {settings.firmware}: no such folder")
    if not settings.registry.exists():
        raise RegistryError(f"registry {settings.registry}: no such file")
    certificates = certificates_of(settings)
    outdated = None if certificates is None else certificates.outdated()
    registry = open_registry(settings.registry, mcuid_format=settings.mcuid_format, read_only=True)
    try:
        found = _look(
            registry, FirmwareStore(settings.firmware, allow_unterminated=settings.allow_unterminated), on_progress
        )
    finally:
        registry.close()
    if outdated is None:
        return found
    return dataclasses.replace(found, findings=(Finding("TLS", outdated, refused=False), *found.findings))


def _look(registry: Registry, store: FirmwareStore, on_progress: Callable[[int, int], None]) -> Preflight:
    findings = [
        Finding(registry.name + (f", line {problem.line}" if problem.line else ""), problem.message, refused=True)
        for problem in registry.audit()
    ]
    known: dict[Key, FirmwareImage | UnservableError] = {}
    count = len(registry)
    for number, entry in enumerate(registry, start=1):
        try:
            key = store.key(entry)
            if key not in known:
                known[key] = image = store.read(key)
                if not isinstance(image, UnservableError):
                    findings += [
                        Finding(f"firmware {key.filename}", warning, refused=False) for warning in image.warnings
                    ]
            found = known[key]
            if isinstance(found, UnservableError):
                raise found
        except UnservableError as error:
            findings.append(Finding(entry.mcuid, str(error), refused=True))
        on_progress(number, count)
    images = sum(not isinstance(image, UnservableError) for image in known.values())
    return Preflight(count, images, tuple(findings))
