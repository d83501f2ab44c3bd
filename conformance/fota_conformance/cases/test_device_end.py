"""The end frame: `@4#` is a prefix of `@4##`, and what a byte means depends on the state."""

from typing import Final

import pytest

from fota_conformance.device_bench import DeviceBench
from fota_conformance.images import fixture
from fota_conformance.reporting import step
from fota_conformance.wire import DENIED, end, show

SILENCE: Final = 3.0
"""Seconds (before `scale`) that are more than the 2 s after which `@0#` is a refusal (docs/protocol.md, 1)."""
PLACES: Final = {
    "before any record": 0,
    "behind some records": 3,
    "behind all records": None,
}
"""Where in the transfer a refusal comes: how many records are in front of it."""
CUTS: Final = {
    "whole": (),
    "cut behind @": (1,),
    "cut behind the digit": (2,),
    "cut behind the first #": (3,),
    "four pieces": (1, 2, 3),
}
"""Where an end frame of four characters is cut."""


def end_by(device: DeviceBench, frame: bytes, cuts: tuple[int, ...]) -> None:
    """One whole update that is ended by a frame in pieces, which must be acked."""
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records)
        with step(f"the device acks {show(frame)} in {len(cuts) + 1} segments"):
            session.peer.send_cut(frame, cuts, "sending the end frame")
            pieces = f", in {len(cuts) + 1} segments" if cuts else ""
            session.expect_ack(f"after the end frame, {show(frame)}{pieces}")


@pytest.mark.fota_requirement("FOTA-DEV-end-4")
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_version_4_ends_an_update(device: DeviceBench, cuts: tuple[int, ...]) -> None:
    """In the transfer @4## is the end frame of version 4, however it is cut."""
    end_by(device, end("4"), cuts)


@pytest.mark.fota_requirement("FOTA-DEV-end-0")
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_version_0_ends_an_update(device: DeviceBench, cuts: tuple[int, ...]) -> None:
    """In the transfer @0## is the end frame of version 0, not a refusal, however it is cut."""
    end_by(device, end("0"), cuts)


@pytest.mark.fota_requirement("FOTA-DEV-end-letters")
@pytest.mark.parametrize("version", ["A", "1F", "C0", "FF"])
def test_version_with_letters_ends_an_update(device: DeviceBench, version: str) -> None:
    """A version with letters ends an update, too."""
    end_by(device, end(version), ())


@pytest.mark.fota_requirement("FOTA-DEV-end-split")
@pytest.mark.parametrize("at", [1, 2, 3, 4], ids=lambda at: f"cut behind character {at}")
def test_end_frame_counts_once_it_is_whole(device: DeviceBench, at: int) -> None:
    """An end frame is not acked before its last character came, and then it is."""
    frame = end("16")
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records)
        with step(f"the end frame up to {show(frame[:at])}"):
            session.peer.send(frame[:at], "sending the beginning of the end frame")
            accepted = f"nothing, until {show(frame[at:])} came"
            session.peer.stay_quiet(device.settle_s, f"after {show(frame[:at])}, a part of the end frame", accepted)
        with step("the rest of it"):
            session.peer.send(frame[at:], "sending the rest of the end frame")
            session.expect_ack(f"after {show(frame)} in two segments")


@pytest.mark.fota_requirement("FOTA-DEV-late-refusal")
@pytest.mark.parametrize("records", PLACES.values(), ids=PLACES)
def test_late_refusal_and_close(device: DeviceBench, records: int | None) -> None:
    """@0# in the transfer, followed by a close, is a refusal: no ack, and no update."""
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records[:records])
        situation = f"after {show(DENIED)} in the transfer and a close"
        with step("a refusal in the transfer, and a close"):
            session.peer.send(DENIED, "refusing in the transfer")
            session.peer.stop_sending()
        session.expect_no_ack(device.refusal_s, situation)
    device.expect_not_updated(situation)


@pytest.mark.fota_waits
@pytest.mark.fota_requirement("FOTA-DEV-late-refusal")
@pytest.mark.parametrize("records", PLACES.values(), ids=PLACES)
def test_late_refusal_and_silence(device: DeviceBench, records: int | None) -> None:
    """@0# in the transfer, followed by silence, is a refusal: no ack, and no update."""
    silence_s = SILENCE * device.target.scale
    with device.session() as session:
        session.begin()
        session.serve(fixture("blink_1.s19").records[:records])
        situation = f"after {show(DENIED)} in the transfer and {silence_s:g} s of silence"
        with step("a refusal in the transfer, and silence"):
            session.peer.send(DENIED, "refusing in the transfer")
        session.expect_no_ack(silence_s, situation)
    device.expect_not_updated(situation)


@pytest.mark.fota_requirement("FOTA-DEV-after-end")
def test_device_ends_after_the_update(device: DeviceBench) -> None:
    """A device ends after the ack of the end frame and the close of its server."""
    with device.session(finish=False) as session:
        session.update(fixture("blink_1.s19"), "16")
        session.peer.close()
        device.expect_end("after the ack of the end frame and the server's close")
