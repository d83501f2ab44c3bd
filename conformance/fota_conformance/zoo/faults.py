"""The table of the zoo: every broken target with the requirement that must catch it, and the good ones.

What a fault is, its class says; here is how it is started, and by what it is found out.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from fota_conformance.zoo import broken_devices as devices
from fota_conformance.zoo import broken_servers as servers
from fota_conformance.zoo.device import Device
from fota_conformance.zoo.server import Server, Session

Role: TypeAlias = Literal["server", "device"]
Revision: TypeAlias = Literal["A", "B"]
Handshake: TypeAlias = Literal["wait", "immediate", "auto"]
"""A server's policy. A device: `wait`, it acks `@4#`; `immediate`, it does not."""


@dataclass(frozen=True, slots=True)
class Good:
    """A target that meets every requirement, as it is started."""

    name: str
    role: Role
    revision: Revision
    handshake: Handshake


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken target: its class, the requirement that it breaks, and how it is started."""

    name: str
    target: type[Session | Server | Device]
    breaks: str
    revision: Revision = "A"
    handshake: Handshake = "immediate"

    @property
    def role(self) -> Role:
        """Which side it plays."""
        return "device" if issubclass(self.target, Device) else "server"

    @property
    def title(self) -> str:
        """What it does wrong, in one sentence."""
        return " ".join((self.target.__doc__ or "").split())


GOOD: Final = (
    Good("server-a-immediate", "server", "A", "immediate"),
    Good("server-a-auto", "server", "A", "auto"),
    Good("server-b-wait", "server", "B", "wait"),
    Good("device-a-no-permission-ack", "device", "A", "immediate"),
    Good("device-b-permission-ack", "device", "B", "wait"),
)
"""The targets that must pass everything that concerns them."""

SERVER_FAULTS: Final = (
    Fault("d01-first-image", servers.FirstImage, "FOTA-XFER-own-image"),
    Fault("d02-one-client", servers.OneClient, "FOTA-SESSION-not-held"),
    Fault("d03-first-line-dropped", servers.FirstLineDropped, "FOTA-XFER-first-line"),
    Fault("d04-missing-file-kills", servers.MissingFileKills, "FOTA-FILE-missing"),
    Fault("d04-long-file-kills", servers.LongFileKills, "FOTA-XFER-long-file"),
    Fault("d05-one-segment", servers.OneSegment, "FOTA-HS-apart", handshake="auto"),
    Fault("d06-wrong-ack-kills", servers.WrongAckKills, "FOTA-ACK-wrong-survived"),
    Fault("d07-goes-on-after-error", servers.GoesOnAfterError, "FOTA-SESSION-no-frame-lost"),
    Fault("d08-not-text-kills", servers.NotTextKills, "FOTA-ID-not-text"),
    Fault("d09-unchecked", servers.Unchecked, "FOTA-FILE-corrupt-never-sent"),
    Fault("d10-any-path", servers.AnyPath, "FOTA-FILE-inside"),
    Fault("d11-spaces-kept", servers.SpacesKept, "FOTA-REG-white-space"),
    Fault("d12-lower-case-cut", servers.LowerCaseCut, "FOTA-XFER-lower-case-whole"),
    Fault("d13-long-version-endless", servers.LongVersionEndless, "FOTA-END-bad-version"),
    Fault("d13-version-cut", servers.VersionCut, "FOTA-END-lower-case-version"),
    Fault("d14-two-sessions", servers.TwoSessions, "FOTA-SESSION-one-live", "B", "wait"),
    Fault("d15-one-read", servers.OneRead, "FOTA-ID-split"),
    Fault("d16-malformed-line-hides", servers.MalformedLineHides, "FOTA-REG-malformed-line"),
    Fault("d17-id-line-end-malformed", servers.IdLineEndMalformed, "FOTA-ID-line-end"),
    Fault("d17-ack-line-end-wrong", servers.AckLineEndWrong, "FOTA-ACK-line-end"),
    Fault("d18-close-kills", servers.CloseKills, "FOTA-SESSION-closed-survived"),
    Fault("d19-late-refusal", servers.LateRefusal, "FOTA-FILE-refused-first", "B", "wait"),
    Fault("d20-leaky-log", servers.LeakyLog, "FOTA-SESSION-no-leak"),
    Fault("denies-all", servers.DeniesAll, "FOTA-ID-known-allowed"),
    Fault("unknown-served", servers.UnknownServed, "FOTA-ID-unknown-denied"),
    Fault("unknown-dropped", servers.UnknownDropped, "FOTA-ID-unknown-denied"),
    Fault("malformed-dropped", servers.MalformedDropped, "FOTA-ID-malformed-denied"),
    Fault("denial-stays", servers.DenialStays, "FOTA-ID-denied-closed"),
    Fault("waits-for-hash", servers.WaitsForHash, "FOTA-ID-malformed-at-once"),
    Fault("suffix-counts", servers.SuffixCounts, "FOTA-ID-suffix-ignored"),
    Fault("decimal-only", servers.DecimalOnly, "FOTA-ID-hex", "B", "wait"),
    Fault("endless-id", servers.EndlessId, "FOTA-ID-over-long"),
    Fault("early-bytes-dropped", servers.EarlyBytesDropped, "FOTA-ID-early-bytes"),
    Fault("waits-for-nobody", servers.WaitsForNobody, "FOTA-HS-wait", "B", "wait"),
    Fault("waits-for-ack", servers.WaitsForAck, "FOTA-HS-immediate"),
    Fault("unasked-ack-ends", servers.UnaskedAckEnds, "FOTA-HS-one-ahead"),
    Fault("no-grace", servers.NoGrace, "FOTA-HS-unsure-lingers"),
    Fault("record-dropped", servers.RecordDropped, "FOTA-UPDATE-whole"),
    Fault("records-swapped", servers.RecordsSwapped, "FOTA-XFER-data-records"),
    Fault("header-sent", servers.HeaderSent, "FOTA-XFER-data-records"),
    Fault("line-ends", servers.LineEnds, "FOTA-XFER-no-line-end"),
    Fault("two-per-ack", servers.TwoPerAck, "FOTA-XFER-one-per-ack"),
    Fault("carriage-return-kept", servers.CarriageReturnKept, "FOTA-XFER-line-ends"),
    Fault("last-line-dropped", servers.LastLineDropped, "FOTA-XFER-line-ends"),
    Fault("case-kept", servers.CaseKept, "FOTA-XFER-upper-case"),
    Fault("wrong-version", servers.WrongVersion, "FOTA-END-version"),
    Fault("no-end", servers.NoEnd, "FOTA-UPDATE-whole"),
    Fault("end-twice", servers.EndTwice, "FOTA-END-closed"),
    Fault("never-closes", servers.NeverCloses, "FOTA-END-closed"),
    Fault("closes-early", servers.ClosesEarly, "FOTA-END-closed"),
    Fault("any-byte-acks", servers.AnyByteAcks, "FOTA-ACK-wrong"),
    Fault("wrong-acks-dropped", servers.WrongAcksDropped, "FOTA-ACK-wrong"),
    Fault("surplus-used", servers.SurplusUsed, "FOTA-ACK-surplus-unused"),
    Fault("surplus-dropped", servers.SurplusDropped, "FOTA-ACK-surplus-ends"),
    Fault("silent-for-ever", servers.SilentForEver, "FOTA-TIME-silent"),
    Fault("id-byte-buys-time", servers.IdByteBuysTime, "FOTA-TIME-dripping-id"),
    Fault("permission-ack-for-ever", servers.PermissionAckForEver, "FOTA-TIME-permission-ack", "B", "wait"),
    Fault("record-ack-for-ever", servers.RecordAckForEver, "FOTA-TIME-record-ack"),
    Fault("silence-is-ack", servers.SilenceIsAck, "FOTA-TIME-record-ack"),
    Fault("line-end-buys-time", servers.LineEndBuysTime, "FOTA-TIME-dripping-line-ends"),
    Fault("end-ack-for-ever", servers.EndAckForEver, "FOTA-TIME-end-ack"),
    Fault("impatient", servers.Impatient, "FOTA-TIME-patient"),
    Fault("images-mixed", servers.ImagesMixed, "FOTA-SESSION-many"),
    Fault("one-falls-all-fall", servers.OneFallsAllFall, "FOTA-SESSION-isolated"),
    Fault("oldest-wins", servers.OldestWins, "FOTA-SESSION-newest-wins"),
    Fault("close-is-ack", servers.CloseIsAck, "FOTA-SESSION-half-closed"),
    Fault("reset-kills", servers.ResetKills, "FOTA-SESSION-reset-survived"),
    Fault("slots-lost", servers.SlotsLost, "FOTA-SESSION-storm"),
    Fault("bad-lines-skipped", servers.BadLinesSkipped, "FOTA-FILE-corrupt-never-sent"),
    Fault("cut-file-served", servers.CutFileServed, "FOTA-FILE-incomplete"),
    Fault("count-ignored", servers.CountIgnored, "FOTA-FILE-incomplete"),
    Fault("contradiction-served", servers.ContradictionServed, "FOTA-FILE-contradiction"),
    Fault("nothing-served", servers.NothingServed, "FOTA-FILE-no-data"),
    Fault("links-followed", servers.LinksFollowed, "FOTA-FILE-inside"),
    Fault("records-sorted", servers.RecordsSorted, "FOTA-FILE-odd-served"),
    Fault("s3-unknown", servers.S3Unknown, "FOTA-FILE-odd-served"),
    Fault("reads-on-the-way", servers.ReadsOnTheWay, "FOTA-FILE-immutable"),
    Fault("comment-ends-registry", servers.CommentEndsRegistry, "FOTA-REG-comments"),
    Fault("stops-at-once", servers.StopsAtOnce, "FOTA-STOP-finishes"),
    Fault("stopping-refuses", servers.StoppingRefuses, "FOTA-STOP-no-refusal"),
    Fault("lock-stays", servers.LockStays, "FOTA-STOP-restart"),
)

DEVICE_FAULTS: Final = (
    Fault("babbles", devices.Babbles, "FOTA-DEV-ID-form"),
    Fault("speaks-unasked", devices.SpeaksUnasked, "FOTA-DEV-ID-patient"),
    Fault("denied-talks", devices.DeniedTalks, "FOTA-DEV-denied"),
    Fault("erases-first", devices.ErasesFirst, "FOTA-DEV-denied-untouched"),
    Fault("denied-says-updated", devices.DeniedSaysUpdated, "FOTA-DEV-denied-told"),
    Fault("unanswered-hangs", devices.UnansweredHangs, "FOTA-DEV-unanswered-close"),
    Fault("permission-in-one-read", devices.PermissionInOneRead, "FOTA-DEV-permission-split"),
    Fault("frame-dropped", devices.FrameDropped, "FOTA-DEV-permission-joined"),
    Fault("double-ack", devices.DoubleAck, "FOTA-DEV-ack-once"),
    Fault("early-ack", devices.EarlyAck, "FOTA-DEV-ack-not-early"),
    Fault("bytes-lost", devices.BytesLost, "FOTA-DEV-flash"),
    Fault("never-erases", devices.NeverErases, "FOTA-DEV-flash-rest"),
    Fault("record-in-one-read", devices.RecordInOneRead, "FOTA-DEV-split"),
    Fault("s2-unknown", devices.S2Unknown, "FOTA-DEV-types"),
    Fault("short-line-buffer", devices.ShortLineBuffer, "FOTA-DEV-types"),
    Fault("partial-unit-lost", devices.PartialUnitLost, "FOTA-DEV-split-units"),
    Fault("ascending-only", devices.AscendingOnly, "FOTA-DEV-descending"),
    Fault("first-byte-stays", devices.FirstByteStays, "FOTA-DEV-overlap"),
    Fault("erases-all", devices.ErasesAll, "FOTA-DEV-holes"),
    Fault("clears-bits-only", devices.ClearsBitsOnly, "FOTA-DEV-replaces"),
    Fault("wrong-crc-told", devices.WrongCrcTold, "FOTA-DEV-outcome"),
    Fault("end-unacked", devices.EndUnacked, "FOTA-DEV-update"),
    Fault("four-is-permission", devices.FourIsPermission, "FOTA-DEV-end-4"),
    Fault("zero-is-refusal", devices.ZeroIsRefusal, "FOTA-DEV-end-0"),
    Fault("late-refusal-acked", devices.LateRefusalAcked, "FOTA-DEV-late-refusal", "B", "wait"),
    Fault("decimal-end-only", devices.DecimalEndOnly, "FOTA-DEV-end-letters"),
    Fault("end-acked-early", devices.EndAckedEarly, "FOTA-DEV-end-split"),
    Fault("never-ends", devices.NeverEnds, "FOTA-DEV-after-end"),
    Fault("bad-checksum-taken", devices.BadChecksumTaken, "FOTA-DEV-bad-checksum"),
    Fault("bad-checksum-kept", devices.BadChecksumKept, "FOTA-DEV-bad-record-not-kept"),
    Fault("odd-characters-acked", devices.OddCharactersAcked, "FOTA-DEV-bad-record"),
    Fault("addresses-wrap", devices.AddressesWrap, "FOTA-DEV-outside"),
    Fault("bootloader-overwritten", devices.BootloaderOverwritten, "FOTA-DEV-bootloader-kept"),
    Fault("refusal-stays", devices.RefusalStays, "FOTA-DEV-refusal-closed"),
    Fault("refusal-says-updated", devices.RefusalSaysUpdated, "FOTA-DEV-refusal-told"),
    Fault("refusal-is-final", devices.RefusalIsFinal, "FOTA-DEV-refusal-recovers"),
    Fault("cut-hangs", devices.CutHangs, "FOTA-DEV-cut-ends"),
    Fault("cut-boots", devices.CutBoots, "FOTA-DEV-cut-not-booted"),
    Fault("resumes", devices.Resumes, "FOTA-DEV-cut-recovers"),
    Fault("answer-for-ever", devices.AnswerForEver, "FOTA-DEV-answer-deadline"),
    Fault("frame-for-ever", devices.FrameForEver, "FOTA-DEV-frame-deadline"),
    Fault("impatient-device", devices.Impatient, "FOTA-DEV-patient"),
    Fault("power-cut-boots", devices.PowerCutBoots, "FOTA-DEV-power-cut"),
    Fault("seal-unchecked", devices.SealUnchecked, "FOTA-DEV-seal-checked"),
    Fault("half-is-enough", devices.HalfIsEnough, "FOTA-DEV-seal-half"),
    Fault("vectors-unchecked", devices.VectorsUnchecked, "FOTA-DEV-vectors-checked"),
    Fault("bad-image-boots", devices.BadImageBoots, "FOTA-DEV-bad-not-booted"),
    Fault("nothing-is-update", devices.NothingIsUpdate, "FOTA-DEV-nothing-sent"),
)

FAULTS: Final = SERVER_FAULTS + DEVICE_FAULTS
"""Every broken target; names are unique over both roles."""
