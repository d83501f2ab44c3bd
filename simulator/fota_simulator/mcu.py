"""A virtual K60: an identity, a part with its flash, and a bootloader that can be updated over and over."""

import zlib
from dataclasses import dataclass

from fota_protocol.device import DeviceSession, DeviceTimings, Failure, Outcome, RecordCache, Result
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part

from .boot import STANDARD_BOOTLOADER, BootloaderSettings, would_start
from .bootloader import Bootloader, bootloader_sectors
from .device_file import SavedDevice
from .flash import Flash, FlashMemory, SectorPool
from .report import McuReport
from .verify import first_difference


@dataclass(frozen=True, slots=True)
class McuShare:
    """What the virtual MCUs of a process share: records parsed once, sectors held once."""

    cache: RecordCache
    pool: SectorPool

    @classmethod
    def new(cls) -> "McuShare":
        """Nothing shared yet."""
        return cls(RecordCache(), SectorPool())


class VirtualMcu:
    """One device. Its flash survives from update to update: `flash`, or a blank one behind its bootloader.

    The bootloader programs it through `memory`, a controller over the same flash, where there is one.
    """

    __slots__ = (
        "_acks_verdict",
        "_bootloader",
        "_bootloader_sectors",
        "_memory",
        "_share",
        "_timings",
        "flash",
        "identification",
        "part",
        "settings",
    )

    def __init__(
        self,
        identification: Identification,
        part: Part,
        share: McuShare,
        *,
        flash: Flash | None = None,
        memory: FlashMemory | None = None,
        settings: BootloaderSettings = STANDARD_BOOTLOADER,
        acks_verdict: bool = True,
        timings: DeviceTimings = DeviceTimings(),
    ) -> None:
        self.identification = identification
        self.part = part
        self.settings = settings
        self._share = share
        self._acks_verdict = acks_verdict
        self._timings = timings
        if flash is None:
            self._bootloader_sectors = bootloader_sectors(part)
            flash = Flash(part, share.pool, self._bootloader_sectors)
        else:
            own = range(part.application_start // part.sector_size)
            self._bootloader_sectors = {
                index: flash.read(index * part.sector_size, (index + 1) * part.sector_size) for index in own
            }
        self.flash = flash
        self._memory: FlashMemory = flash if memory is None else memory
        self._bootloader = self._new_bootloader()

    def session(self) -> DeviceSession:
        """A session for one more update."""
        self._bootloader = self._new_bootloader()
        return DeviceSession(
            self.identification,
            self._bootloader,
            cache=self._share.cache,
            acks_verdict=self._acks_verdict,
            timings=self._timings,
        )

    def _new_bootloader(self) -> Bootloader:
        settings = self.settings
        return Bootloader(
            self._memory,
            settings.policy,
            order=settings.order,
            guards_itself=settings.guards_itself,
            allows_lock=settings.allows_lock,
        )

    def saved(self) -> SavedDevice:
        """What of it outlives its power."""
        return SavedDevice(
            identification=self.identification,
            part=self.part,
            settings=self.settings,
            bootloader_crc=zlib.crc32(b"".join(self._bootloader_sectors.values())),
            sectors=self.flash.contents(),
            wear=self.flash.erase_counts,
        )

    @property
    def boots(self) -> bool:
        """Whether the bootloader, if it is still whole, would start what is in flash, by its policy."""
        size = self.part.sector_size
        if not self.settings.guards_itself and any(
            self.flash.read(index * size, (index + 1) * size) != sector
            for index, sector in self._bootloader_sectors.items()
        ):
            return False
        return would_start(self.flash, self.settings.policy)

    @property
    def bootloader_state(self) -> tuple[object, ...]:
        """All that its bootloader knows of the update under way."""
        return self._bootloader.state()

    @property
    def image_crc(self) -> str | None:
        """The image CRC of what the last update wrote; None where it wrote nothing."""
        crc = self._bootloader.image_crc()
        return None if crc is None else f"{crc:08X}"

    def difference(self, image: FirmwareImage) -> str | None:
        """What keeps the last update from being verified against `image`; None when nothing does."""
        return first_difference(self.flash, image, self._bootloader.touched, self._bootloader_sectors)

    def report(
        self,
        session: DeviceSession,
        image: FirmwareImage | None,
        *,
        started_s: float,
        duration_s: float,
        attempts: int = 1,
        is_stranger: bool = False,
    ) -> McuReport:
        """How the update of `session` went; with `image`, also whether the flash holds it."""
        outcome = session.outcome or Outcome(Result.FAILED, "never began", Failure.CONNECTION_LOST)
        difference = None if image is None else self.difference(image)
        return McuReport(
            mcuid=self.identification.mcuid,
            result=outcome.result.value,
            reason=None if outcome.reason is None else outcome.reason.value,
            detail=outcome.detail if difference is None or outcome.result is not Result.UPDATED else difference,
            version=outcome.version,
            records=session.records,
            booted=self.boots,
            image_crc=self.image_crc,
            verified=None if image is None else difference is None and outcome.result is Result.UPDATED,
            started_s=started_s,
            duration_s=duration_s,
            attempts=attempts,
            is_stranger=is_stranger,
        )
