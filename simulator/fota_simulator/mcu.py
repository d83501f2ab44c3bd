"""A virtual K60: an identity, a part with its flash, and a bootloader that can be updated over and over."""

from dataclasses import dataclass

from fota_protocol.device import DeviceSession, DeviceTimings, Failure, Outcome, RecordCache, Result
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import Part

from .boot import BootPolicy, would_start
from .bootloader import Bootloader, bootloader_sectors
from .flash import Flash, SectorPool
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
    """One device. Its flash survives from update to update: `flash`, or a blank one behind its bootloader."""

    __slots__ = ("_acks_verdict", "_bootloader", "_share", "_timings", "flash", "identification", "part", "policy")

    def __init__(
        self,
        identification: Identification,
        part: Part,
        share: McuShare,
        *,
        flash: Flash | None = None,
        policy: BootPolicy = BootPolicy.SEALED,
        acks_verdict: bool = True,
        timings: DeviceTimings = DeviceTimings(),
    ) -> None:
        self.identification = identification
        self.part = part
        self.policy = policy
        self._share = share
        self._acks_verdict = acks_verdict
        self._timings = timings
        self.flash = Flash(part, share.pool, bootloader_sectors(part)) if flash is None else flash
        self._bootloader = Bootloader(self.flash, policy)

    def session(self) -> DeviceSession:
        """A session for one more update."""
        self._bootloader = Bootloader(self.flash, self.policy)
        return DeviceSession(
            self.identification,
            self._bootloader,
            cache=self._share.cache,
            acks_verdict=self._acks_verdict,
            timings=self._timings,
        )

    @property
    def boots(self) -> bool:
        """Whether the bootloader would start what is in flash, by its policy."""
        return would_start(self.flash, self.policy)

    @property
    def image_crc(self) -> str | None:
        """The image CRC of what the last update wrote; None where it wrote nothing."""
        crc = self._bootloader.image_crc()
        return None if crc is None else f"{crc:08X}"

    def difference(self, image: FirmwareImage) -> str | None:
        """What keeps the last update from being verified against `image`; None when nothing does."""
        return first_difference(self.flash, image, self._bootloader.touched)

    def report(
        self, session: DeviceSession, image: FirmwareImage | None, *, started_s: float, duration_s: float
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
        )
