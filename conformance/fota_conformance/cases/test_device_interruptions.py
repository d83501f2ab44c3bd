"""The link breaks, the server falls silent, the power fails.

Whatever was half written is never taken for an image, and the next update repairs it. An update is cut at some records,
at every one with `--exhaustive`: the records before it are acked, it itself is under way.
"""

import time
from typing import Final

import pytest

from fota_conformance.device_bench import DeviceBench
from fota_conformance.exchange import PlayedServer
from fota_conformance.images import fixture
from fota_conformance.pace import SLACK
from fota_conformance.reporting import step
from fota_conformance.wire import end, show

A_FEW: Final = 3
"""Records that show that a transfer goes on."""
PATIENCE: Final = 2 / 3
"""The part of its deadline that a device must wait in any case."""
DRIP: Final = 4
"""Characters that drip in during one deadline: none of them completes a frame."""
EARLIER: Final = fixture("blink_2.s19")
"""What a device holds before an update is cut, and gets after it."""
IMAGE: Final = fixture("blink_1.s19")
"""What it was to get."""

cuts: Final = pytest.mark.fota_cuts("blink_1.s19")


def interrupt(session: PlayedServer, cut: int, how: str) -> None:
    """An update until one record is half sent, or acked, and the link breaks."""
    session.begin()
    session.serve(IMAGE.records[: cut if "behind" in how else cut - 1])
    with step(f"the link breaks at record {cut} of {len(IMAGE.records)}: {how}"):
        if "behind" not in how:
            one = IMAGE.records[cut - 1]
            session.peer.send(one[: len(one) // 2], f"sending half of record {cut}")
        session.peer.reset() if "reset" in how else session.peer.close()


def interrupted(cut: int, how: str) -> str:
    """The same in words."""
    where = "behind the ack of" if "behind" in how else "inside"
    return f"a {how.partition(' ')[0]} by the server {where} record {cut} of {len(IMAGE.records)}"


@pytest.mark.fota_requirement("FOTA-DEV-cut-ends")
@cuts
@pytest.mark.parametrize("how", ["close", "reset", "close behind the ack"])
def test_device_ends_when_the_link_breaks(device: DeviceBench, cut: int, how: str) -> None:
    """A device whose connection is closed or reset in mid-update ends, and is not updated."""
    with device.session(finish=False) as session:
        interrupt(session, cut, how)
        device.expect_end(f"after {interrupted(cut, how)}")
    device.expect_not_updated(f"after {interrupted(cut, how)}")


@pytest.mark.fota_requirement("FOTA-DEV-cut-not-booted")
@cuts
@pytest.mark.parametrize("how", ["close", "reset"])
def test_half_image_is_not_booted(device: DeviceBench, cut: int, how: str) -> None:
    """After an interrupted update a device does not say that it is updated, nor boots what it holds."""
    device.update(EARLIER)
    with device.session() as session:
        interrupt(session, cut, how)

    device.expect_not_updated(f"after {interrupted(cut, how)}")
    device.expect_not_booted(f"after {interrupted(cut, how)}", EARLIER)


@pytest.mark.fota_requirement("FOTA-DEV-cut-recovers")
@cuts
def test_update_after_an_interrupted_one(device: DeviceBench, cut: int) -> None:
    """After an update that was interrupted at any record, the next one leaves the whole image in flash."""
    with device.session() as session:
        interrupt(session, cut, "reset")

    device.expect_recovery(EARLIER, interrupted(cut, "reset"))


@pytest.mark.fota_requirement("FOTA-DEV-power-cut")
@cuts
def test_power_cut_at_a_record(device: DeviceBench, cut: int) -> None:
    """A device that loses power at a record boots no half image, and the next update leaves a whole one in flash."""
    lose_power(device, IMAGE.records[: cut - 1], IMAGE.records[cut - 1], f"record {cut} of {len(IMAGE.records)}")


@pytest.mark.fota_requirement("FOTA-DEV-power-cut")
def test_power_cut_at_the_end_frame(device: DeviceBench) -> None:
    """A device that loses power at the end frame boots a whole image or none, and can be updated again."""
    lose_power(device, IMAGE.records, end("16"), "the end frame")


def lose_power(device: DeviceBench, acked: tuple[bytes, ...], last: bytes, name: str) -> None:
    """Cut the power as soon as a frame is sent; then look what is booted, and update."""
    device.update(EARLIER)
    after = f"a power cut at {name}"
    with device.session(finish=False) as session:
        session.begin()
        session.serve(acked)
        with step(after):
            session.peer.send(last, f"sending {name}")
            device.power_off()
    device.power_on()

    if "outcome" in device.target.offers:
        with step("what it boots, when it is denied"), device.surviving(after):
            device.deny()
            device.expect_not_booted("after a denial", EARLIER, IMAGE)
    device.expect_recovery(EARLIER, after)


@pytest.mark.fota_waits
@pytest.mark.fota_requirement("FOTA-DEV-answer-deadline")
@pytest.mark.parametrize("begun", [b"", b"@4"], ids=["no answer", "half an answer"])
def test_unanswered_device_gives_up(device: DeviceBench, begun: bytes) -> None:
    """A device that gets no answer to its identification closes within its deadline."""
    with device.session() as session:
        session.expect_identification()
        if begun:
            session.peer.send(begun, "sending half an answer")
        came = show(begun) if begun else "no answer"
        expect_given_up(session, device.target.deadlines.answer, f"after the identification, and {came}")


@pytest.mark.fota_waits
@pytest.mark.fota_requirement("FOTA-DEV-frame-deadline")
@pytest.mark.parametrize("records", [0, A_FEW, len(IMAGE.records)], ids=["no record", "some records", "all records"])
def test_device_gives_up_without_a_next_frame(device: DeviceBench, records: int) -> None:
    """A device that gets no next frame closes within its deadline."""
    with device.session() as session:
        session.begin()
        session.serve(IMAGE.records[:records])
        expect_given_up(session, device.target.deadlines.frame, f"after {records} records, and no next frame")


@pytest.mark.fota_waits
@pytest.mark.fota_requirement("FOTA-DEV-frame-deadline")
@pytest.mark.parametrize("begun", [IMAGE.records[A_FEW][:-2], b"@1"], ids=["in a record", "in the end frame"])
def test_device_gives_up_inside_a_frame(device: DeviceBench, begun: bytes) -> None:
    """A device whose next frame stops before its end closes within its deadline."""
    with device.session() as session:
        session.begin()
        session.serve(IMAGE.records[:A_FEW])
        session.peer.send(begun, "sending the beginning of a frame")
        expect_given_up(session, device.target.deadlines.frame, f"after {show(begun)}, and nothing more")


@pytest.mark.fota_waits
@pytest.mark.fota_requirement("FOTA-DEV-frame-deadline")
def test_dripping_frame_buys_no_time(device: DeviceBench) -> None:
    """A device whose next frame drips in character by character closes within its deadline."""
    deadline_s = device.target.deadlines.frame
    with device.session() as session:
        session.begin()
        session.serve(IMAGE.records[:A_FEW])
        latest = time.monotonic() + deadline_s + SLACK * device.target.scale
        with step(f"a record drips in, {DRIP} characters in {deadline_s:g} s, and the device gives up"):
            for character in IMAGE.records[A_FEW]:
                session.peer.offer(bytes([character]))
                session.peer.drain(deadline_s / DRIP)
                if session.peer.ended:
                    return
                if time.monotonic() > latest:
                    break
            raise session.peer.failure(
                f"while a record drips in, {DRIP} characters in {deadline_s:g} s",
                came="no close",
                accepted=f"a close {deadline_s:g} s after the last ack, as [deadlines] of the target file promises",
            )


def expect_given_up(session: PlayedServer, deadline_s: float, situation: str) -> None:
    """Demand a close within a promised deadline that begins now, or a little earlier."""
    with step("the device gives up"):
        accepted = f"a close within {deadline_s:g} s, as [deadlines] of the target file promises, and not a byte more"
        session.peer.expect_close(deadline_s + SLACK * session.target.scale, situation, accepted)


@pytest.mark.fota_waits
@pytest.mark.fota_requirement("FOTA-DEV-patient")
@pytest.mark.parametrize("late", ["answer", "record", "end frame"])
def test_device_waits_for_a_slow_server(device: DeviceBench, late: str) -> None:
    """A device waits for a slow server: a frame at two thirds of its deadline is taken."""
    deadlines = device.target.deadlines
    wait_s = PATIENCE * (deadlines.answer if late == "answer" else deadlines.frame)
    situation = f"while the {late} is late, within {wait_s:g} s"
    accepted = (
        f"nothing, and an open connection: [deadlines] of the target file promises to wait {wait_s / PATIENCE:g} s"
    )
    with device.session() as session:
        session.expect_identification()
        if late == "answer":
            session.peer.stay_quiet(wait_s, situation, accepted)
        session.allow()
        session.serve(IMAGE.records[:A_FEW])
        if late == "record":
            session.peer.stay_quiet(wait_s, situation, accepted)
        session.serve(IMAGE.records[A_FEW:])
        if late == "end frame":
            session.peer.stay_quiet(wait_s, situation, accepted)
        session.end("16")
