"""The virtual device on a real socket, against a server that does what servers do wrong, requirement by requirement."""

import contextlib
import functools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import fota_fixtures
from fota_protocol.device import DeviceSession, DeviceTimings
from fota_protocol.formats import load
from fota_protocol.identity import Identification
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import PARTS
from fota_protocol.srecord import SRecord
from fota_simulator.boot import BootloaderSettings, BootPolicy
from fota_simulator.bootloader import bootloader_sectors
from fota_simulator.flash.file_flash import FileFlash
from fota_simulator.mcu import McuShare, VirtualMcu
from fota_simulator.report import McuReport
from fota_transport.clock import SystemClock
from fota_transport.errors import LinkLost
from fota_transport.links import TcpLink
from fota_transport.pump import pump

PART: Final = PARTS["MK60DN512"]
START: Final = PART.application_start
END: Final = PART.flash_end
IDENTIFICATION: Final = b"@0001000000000000000000000#"
PATIENCE: Final = 10.0
"""Seconds for whatever must come."""
SILENCE: Final = 0.1
"""Seconds without a byte that are taken for none."""
SHORT: Final = DeviceTimings(verdict=0.4, frame=0.4, refusal=0.2)


@functools.cache
def image_of(name: str) -> FirmwareImage:
    """A fixture, read once."""
    return load(fota_fixtures.read(name))


IMAGE: Final = image_of("blink_1.s19")
FRAMES: Final = tuple(record.encode() for record in IMAGE.records)


class Peer:
    """The server's end of a device's connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    def send(self, *pieces: bytes) -> None:
        """Send each piece as a segment of its own; a device may have left."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._socket.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.0001)

    def expect(self, expected: bytes) -> None:
        """Read so many bytes; they are these."""
        found = b""
        while len(found) < len(expected) and (more := self._socket.recv(len(expected) - len(found))):
            found += more
        assert expected == found

    def expect_silence(self, seconds: float = SILENCE) -> None:
        """Neither a byte nor an end."""
        self._socket.settimeout(seconds)
        with pytest.raises(TimeoutError):
            self._socket.recv(1)
        self._socket.settimeout(PATIENCE)

    def expect_end(self, within_s: float = PATIENCE) -> None:
        """The device closes without another byte."""
        self._socket.settimeout(within_s)
        with contextlib.suppress(ConnectionError):
            assert self._socket.recv(64) == b""

    def begin(self) -> None:
        """Let the device update."""
        self.expect(IDENTIFICATION)
        self.send(b"@4#")
        self.expect(b"@")

    def transfer(self, frames: Sequence[bytes] = FRAMES) -> None:
        """Send frames, each after the ack of the one before."""
        for frame in frames:
            self.send(frame)
            self.expect(b"@")

    def reset(self) -> None:
        """Leave with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Leave in order."""
        self._socket.close()


@dataclass
class Device:
    """A virtual K60 that can be plugged in again and again."""

    mcu: VirtualMcu

    @contextlib.contextmanager
    def plugged_in(self) -> Iterator[tuple[Peer, Callable[[], McuReport]]]:
        """One session: the server's end of it, and how to wait for the device's own report."""
        session = self.mcu.session()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port: int = listener.getsockname()[1]
            thread = threading.Thread(target=_play, args=(session, port), daemon=True)
            thread.start()
            listener.settimeout(PATIENCE)
            connection, _ = listener.accept()

        def report() -> McuReport:
            thread.join(PATIENCE)
            assert not thread.is_alive()
            return self.mcu.report(session, None, started_s=0.0, duration_s=0.0)

        with contextlib.closing(Peer(connection)) as peer:
            yield peer, report
        thread.join(PATIENCE)
        assert not thread.is_alive()

    def updated(self, frames: Sequence[bytes] = FRAMES) -> McuReport:
        """The report of one whole update."""
        with self.plugged_in() as (peer, report):
            peer.begin()
            peer.transfer((*frames, b"@16##"))
            peer.close()
            return report()

    @property
    def flash(self) -> bytes:
        """All of it."""
        return self.mcu.flash.read(0, END)


def _play(session: DeviceSession, port: int) -> None:
    clock = SystemClock()
    with contextlib.suppress(LinkLost), TcpLink.connect("127.0.0.1", port, PATIENCE) as link:
        pump(session, link, clock, lambda _: b"", session.start(clock.monotonic()))


def device(
    policy: BootPolicy = BootPolicy.SEALED, timings: DeviceTimings = DeviceTimings(), *, acks_verdict: bool = True
) -> Device:
    """A new one."""
    who = Identification("0001000000000000000000000", "")
    return Device(
        VirtualMcu(
            who, PART, McuShare.new(), settings=BootloaderSettings(policy), timings=timings, acks_verdict=acks_verdict
        )
    )


def s3(address: int, data: bytes) -> bytes:
    """A record for anywhere."""
    return SRecord(3, address, data).encode()


def summary(report: McuReport) -> tuple[str, str | None, bool]:
    """What a judge reads."""
    return report.result, report.reason, report.booted


GOOD: Final = ("updated", None, True)


# Answers to the identification.


def test_device_that_is_not_answered_says_no_more_than_its_name() -> None:
    """FOTA-DEV-ID-form, FOTA-DEV-ID-patient: one frame, and silence."""
    with device().plugged_in() as (peer, _):
        peer.expect(IDENTIFICATION)
        peer.expect_silence()


@pytest.mark.parametrize("pieces", [(b"@0#",), (b"@", b"0", b"#"), (b"@0", b"#@4#"), (b"@0##",)])
def test_denied_device_ends_as_it_was(pieces: tuple[bytes, ...]) -> None:
    """FOTA-DEV-denied and what follows from it: not a byte more, told, and a good image is still started."""
    blank, updated = device(), device()
    updated.updated()
    for dut, boots in ((blank, False), (updated, True)):
        before = dut.flash
        with dut.plugged_in() as (peer, report):
            peer.expect(IDENTIFICATION)
            peer.send(*pieces)
            peer.expect_end()

            assert ("refused", None, boots) == summary(report())
        assert before == dut.flash


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
@pytest.mark.parametrize("named", [False, True], ids=["at once", "after the identification"])
def test_device_whose_server_leaves_without_an_answer_is_not_updated(
    leave: Callable[[Peer], None], named: bool
) -> None:
    """FOTA-DEV-unanswered-close: it ends, and says so."""
    with device().plugged_in() as (peer, report):
        if named:
            peer.expect(IDENTIFICATION)
        leave(peer)

        assert ("failed", "connection lost", False) == summary(report())


@pytest.mark.parametrize(
    ("acks_verdict", "acks"),
    [(True, b"@" * (len(FRAMES) + 2)), (False, b"@" * (len(FRAMES) + 1))],
    ids=["acks the permission", "does not"],
)
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_update_in_small_segments_is_as_good_as_any(acks_verdict: bool, acks: bytes, cut: int) -> None:
    """FOTA-DEV-permission-split, FOTA-DEV-split, FOTA-DEV-ack-once: every frame is acked once."""
    dut = device(acks_verdict=acks_verdict)
    stream = b"@4#" + b"".join(FRAMES) + b"@16##"
    with dut.plugged_in() as (peer, report):
        peer.expect(IDENTIFICATION)
        threading.Thread(target=lambda: peer.send(*(stream[i : i + cut] for i in range(0, len(stream), cut)))).start()
        peer.expect(acks)
        peer.expect_silence()
        peer.close()

        assert GOOD == summary(report())
    assert dut.mcu.difference(IMAGE) is None


@pytest.mark.parametrize("acks_verdict", [True, False])
def test_permission_and_record_in_one_segment_are_two_frames(acks_verdict: bool) -> None:
    """FOTA-DEV-permission-joined: a server of revision A sends them so."""
    dut = device(acks_verdict=acks_verdict)
    with dut.plugged_in() as (peer, report):
        peer.expect(IDENTIFICATION)
        peer.send(b"@4#" + FRAMES[0])
        peer.expect(b"@@" if acks_verdict else b"@")
        peer.transfer((*FRAMES[1:], b"@16##"))
        peer.close()

        assert GOOD == summary(report())
    assert dut.mcu.difference(IMAGE) is None


def test_record_is_acked_at_its_last_character() -> None:
    """FOTA-DEV-ack-not-early."""
    with device().plugged_in() as (peer, _):
        peer.begin()
        peer.send(FRAMES[0][:-1])
        peer.expect_silence()
        peer.send(FRAMES[0][-1:])
        peer.expect(b"@")


# What ends up in flash.


@pytest.mark.parametrize("name", ["demo_16k.s19", "descending.s19", "unaligned.s19", "long_records.s19"])
def test_image_in_any_shape_is_in_flash(name: str) -> None:
    """FOTA-DEV-flash, -flash-rest, -types, -split-units, -descending, -outcome: over the image before it, too."""
    image = image_of(name)
    dut = device()
    dut.updated()

    report = dut.updated([record.encode() for record in image.records])

    assert GOOD == summary(report)
    assert f"{image.crc32:08X}" == report.image_crc
    assert dut.mcu.difference(image) is None


def test_sectors_in_a_hole_are_left_alone() -> None:
    """FOTA-DEV-holes: what stood between two records still does."""
    dut = device(BootPolicy.AN2295)
    dut.updated([s3(START + offset, bytes(16)) for offset in range(0, 8 * PART.sector_size, 16)])
    before = dut.flash

    dut.updated([s3(START, b"\x11" * 16), s3(START + 5 * PART.sector_size, b"\x22" * 16)])

    for sector in (1, 2, 3, 4, 6, 7):
        start = START + sector * PART.sector_size
        assert before[start : start + PART.sector_size] == dut.flash[start : start + PART.sector_size]


@pytest.mark.parametrize(("second", "acked"), [(b"\x11" * 16, True), (b"\x22" * 16, False)], ids=["equal", "different"])
def test_overlapping_record_is_acked_only_if_it_is_in_flash(second: bytes, acked: bool) -> None:
    """FOTA-DEV-overlap: equal bytes are, others are not acked."""
    dut = device(BootPolicy.AN2295)
    with dut.plugged_in() as (peer, report):
        peer.begin()
        peer.transfer([s3(START + 16, b"\x11" * 16)])
        peer.send(s3(START + 22, second))
        if acked:
            peer.expect(b"@")
            peer.transfer([b"@1##"])
        else:
            peer.expect_end()
        peer.close()

        assert ("updated" if acked else "failed") == report().result
    assert dut.flash[START + 16 : START + 32] == b"\x11" * 16


# The end frame.


@pytest.mark.parametrize(
    "end", [(b"@4##",), (b"@4#", b"#"), (b"@0##",), (b"@0#", b"#"), (b"@1A##",), (b"@", b"f", b"##")]
)
def test_end_frame_is_acked_once_it_is_whole(end: tuple[bytes, ...]) -> None:
    """FOTA-DEV-end-4, -end-0, -end-letters, -end-split, -after-end."""
    with device().plugged_in() as (peer, report):
        peer.begin()
        peer.transfer(FRAMES)
        for piece in end[:-1]:
            peer.send(piece)
            peer.expect_silence()
        peer.send(end[-1])
        peer.expect(b"@")
        peer.expect_silence()
        peer.close()

        assert GOOD == summary(report())


@pytest.mark.parametrize("before", [(), FRAMES[:20]], ids=["at once", "in mid-update"])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("leaves", [False, True], ids=["silence", "close"])
def test_late_refusal_is_no_end_frame(before: Sequence[bytes], joined: bool, leaves: bool) -> None:
    """FOTA-DEV-late-refusal: `@0#` behind `@4#`, then a close or silence."""
    with device(timings=SHORT).plugged_in() as (peer, report):
        peer.expect(IDENTIFICATION)
        if joined:
            peer.send(b"@4#" + b"".join(before) + b"@0#")
        else:
            peer.send(b"@4#", *before, b"@0#")
        peer.expect(b"@" * (1 + len(before)))
        if leaves:
            peer.close()
        else:
            peer.expect_end(2.0)

        assert ("refused", None, False) == summary(report())


# Records that cannot be taken.

BAD: Final = {
    "checksum": FRAMES[20][:-1] + (b"0" if FRAMES[20][-1:] != b"0" else b"1"),
    "character": FRAMES[20][:10] + b"G" + FRAMES[20][11:],
    "control character": FRAMES[20][:10] + b"\0" + FRAMES[20][11:],
    "count too small": FRAMES[20][:2] + b"%02X" % (int(FRAMES[20][2:4], 16) - 1) + FRAMES[20][4:],
    "count for no address": b"S302FFFE",
    "count that is none": b"S3GG" + FRAMES[20][4:],
    "header": SRecord(0, 0, b"header").encode(),
    "reserved type": b"S4030000FC",
    "count of records": SRecord(5, 20).encode(),
    "termination": SRecord(9, 0x4000).encode(),
    "type that is none": b"SX" + FRAMES[20][2:],
    "lower-case S": b"s" + FRAMES[20][1:],
    "above the flash": s3(END, bytes(16)),
    "far above the flash": s3(0xFFFF_FFF0, bytes(16)),
    "across the end of the flash": s3(END - 8, bytes(16)),
    "behind the address space": b"S315FFFFFFF8" + bytes(16).hex().encode() + b"F7",
    "in the bootloader": SRecord(1, 0, bytes(16)).encode(),
    "across the end of the bootloader": s3(START - 8, bytes(16)),
}


@pytest.mark.parametrize("policy", BootPolicy)
@pytest.mark.parametrize("bad", BAD)
def test_record_that_cannot_be_taken_is_not_acked(bad: str, policy: BootPolicy) -> None:
    """FOTA-DEV-bad-checksum, -bad-record, -outside, -refusal-closed, -refusal-told, -refusal-recovers."""
    dut = device(policy)
    with dut.plugged_in() as (peer, report):
        peer.begin()
        peer.transfer(FRAMES[:20])
        before = dut.flash
        peer.send(BAD[bad])
        peer.expect_end()

        found = report()
        assert (found.result, found.records, found.booted) == ("failed", 20, False)
    assert before == dut.flash
    assert GOOD == summary(dut.updated())
    assert dut.mcu.difference(IMAGE) is None


def test_record_whose_count_is_too_large_is_not_acked() -> None:
    """The rest of it never comes, so the device waits its time, and closes."""
    with device(timings=SHORT).plugged_in() as (peer, report):
        peer.begin()
        peer.transfer(FRAMES[:20])
        peer.send(FRAMES[20][:2] + b"FF" + FRAMES[20][4:])
        peer.expect_end(2.0)

        assert ("failed", "timeout", False) == summary(report())


# Interruptions.


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
@pytest.mark.parametrize("taken", [0, 1, 20, len(FRAMES) - 1, len(FRAMES)])
def test_cut_update_is_none_and_the_next_one_repairs_it(leave: Callable[[Peer], None], taken: int) -> None:
    """FOTA-DEV-cut-ends, -cut-not-booted, -cut-recovers: also over another image, of which enough is gone."""
    for earlier in ((), [record.encode() for record in image_of("blink_2.s19").records]):
        dut = device()
        if earlier:
            dut.updated(earlier)
        with dut.plugged_in() as (peer, report):
            peer.begin()
            peer.transfer(FRAMES[:taken])
            if taken:
                peer.send(b"".join(FRAMES[taken : taken + 1])[:-2])
            leave(peer)

            assert ("failed", "connection lost", bool(earlier) and not taken) == summary(report())
        assert GOOD == summary(dut.updated())
        assert dut.mcu.difference(IMAGE) is None


@pytest.mark.parametrize(
    "frames",
    [None, (), FRAMES[:3], (*FRAMES[:3], FRAMES[3][:9])],
    ids=["no answer", "no record", "no fourth record", "half a record"],
)
def test_silent_server_is_left_at_the_deadline(frames: Sequence[bytes] | None) -> None:
    """FOTA-DEV-answer-deadline, FOTA-DEV-frame-deadline: not before, and not much later."""
    with device(timings=SHORT).plugged_in() as (peer, report):
        if frames is None:
            peer.expect(IDENTIFICATION)
        else:
            peer.begin()
            peer.send(*frames)
            peer.expect(b"@" * min(len(frames), 3))
        peer.expect_silence(0.2)
        peer.expect_end(2.0)

        assert ("failed", "timeout", False) == summary(report())


def test_slow_server_is_waited_for() -> None:
    """FOTA-DEV-patient: answer, record and end frame, each at two thirds of the deadline."""
    dut = device(timings=DeviceTimings(verdict=0.6, frame=0.6))
    with dut.plugged_in() as (peer, report):
        peer.expect(IDENTIFICATION)
        for sent in (b"@4#", FRAMES[0], FRAMES[1]):
            time.sleep(0.4)
            peer.send(sent)
            peer.expect(b"@")
        peer.transfer(FRAMES[2:])
        time.sleep(0.4)
        peer.send(b"@16##")
        peer.expect(b"@")
        peer.close()

        assert GOOD == summary(report())


# Integrity.


@pytest.mark.parametrize(
    ("name", "policy", "reason"),
    [
        ("bad_seal.s19", BootPolicy.SEALED, "seal"),
        ("blink_1_unsealed.s19", BootPolicy.SEALED, "seal"),
        ("bad_vectors_stack.s19", BootPolicy.SEALED, "vectors"),
        ("bad_vectors_reset.s19", BootPolicy.VECTORS, "vectors"),
    ],
)
def test_image_that_is_not_accepted_is_not_acked_nor_started(name: str, policy: BootPolicy, reason: str) -> None:
    """FOTA-DEV-seal-checked, -vectors-checked, -bad-not-booted."""
    with device(policy).plugged_in() as (peer, report):
        peer.begin()
        peer.transfer([record.encode() for record in image_of(name).records])
        peer.send(b"@16##")
        peer.expect_end()

        assert ("failed", reason, False) == summary(report())


@pytest.mark.parametrize("earlier", [False, True], ids=["blank", "over the same image"])
@pytest.mark.parametrize("half", [slice(None, 700), slice(700, None)], ids=["first half", "second half"])
def test_half_of_a_sealed_image_is_not_accepted(earlier: bool, half: slice) -> None:
    """FOTA-DEV-seal-half: nor does what an earlier update left make it whole."""
    frames = [record.encode() for record in image_of("demo_16k.s19").records]
    dut = device()
    if earlier:
        dut.updated(frames)
    with dut.plugged_in() as (peer, report):
        peer.begin()
        peer.transfer(frames[half])
        peer.send(b"@16##")
        peer.expect_end()

        assert (report().result, report().reason) == ("failed", "seal")


@pytest.mark.parametrize("policy", BootPolicy)
@pytest.mark.parametrize("frames", [(), (s3(END - 0x2000, bytes(16)),)], ids=["nothing", "elsewhere"])
def test_earlier_image_makes_no_update_of_nothing(policy: BootPolicy, frames: Sequence[bytes]) -> None:
    """FOTA-DEV-nothing-sent: an end frame alone is not acked, nor one behind bytes that are no image.

    Once a byte came, the earlier image is not started any more: that byte might have been one of its own.
    """
    dut = device(policy)
    dut.updated()
    accepted = bool(frames) and policy not in (BootPolicy.SEALED, BootPolicy.VECTORS)
    with dut.plugged_in() as (peer, report):
        peer.begin()
        peer.transfer(frames)
        peer.send(b"@16##")
        if accepted:
            peer.expect(b"@")
            peer.close()
        else:
            peer.expect_end()

        assert (report().result, report().booted) == ("updated" if accepted else "failed", not frames)


def test_power_cut_leaves_the_flash_to_the_next_process(tmp_path: Path) -> None:
    """A device whose flash is a file is told from its flash alone what it may start."""
    path = tmp_path / "flash.bin"

    def plugged() -> tuple[Device, FileFlash]:
        share = McuShare.new()
        flash = FileFlash.open(path, PART, share.pool, bootloader_sectors(PART))
        return Device(VirtualMcu(Identification("0001000000000000000000000", ""), PART, share, flash=flash)), flash

    found = []
    for frames in (FRAMES, ()):
        dut, flash = plugged()
        with contextlib.closing(flash):
            if frames:
                found.append(summary(dut.updated(frames)))
            else:
                with dut.plugged_in() as (peer, report):
                    peer.expect(IDENTIFICATION)
                    peer.send(b"@0#")
                    found.append(summary(report()))

    assert [GOOD, ("refused", None, True)] == found
