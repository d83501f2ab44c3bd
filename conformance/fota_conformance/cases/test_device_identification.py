"""How a device names itself, and what it does with the answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from fota_conformance.device_bench import DeviceBench
from fota_conformance.errors import in_situation
from fota_conformance.exchange import PlayedServer
from fota_conformance.images import fixture
from fota_conformance.reporting import step
from fota_conformance.wire import ALLOWED, DENIED, show

A_FEW: Final = 3
"""Records that show that a transfer has begun."""
CUTS: Final = {
    "behind @": (1,),
    "before #": (2,),
    "three pieces": (1, 2),
}
"""Where an answer of three characters is cut."""


@contextmanager
def identified(device: DeviceBench) -> Iterator[PlayedServer]:
    """A session in which the device has named itself and waits for the answer; its command may stay."""
    with device.session(finish=False) as session:
        session.expect_identification()
        yield session


@pytest.mark.fota_requirement("FOTA-DEV-ID-form")
def test_first_bytes_are_the_identification(device: DeviceBench) -> None:
    """The first bytes of a device are @, its MCUID, # and at most 1,024 of them."""
    with device.session() as session:
        session.expect_identification()


@pytest.mark.fota_requirement("FOTA-DEV-ID-patient")
def test_device_waits_for_its_answer(device: DeviceBench) -> None:
    """Behind its identification a device sends nothing but line ends until it is answered."""
    with device.session() as session:
        session.expect_identification()
        situation = "behind the identification, before any answer"
        session.expect_no_ack(device.settle_s, situation, "nothing, or line ends")


@pytest.mark.fota_requirement("FOTA-DEV-denied")
@pytest.mark.parametrize("cuts", [(), *CUTS.values()], ids=["whole", *CUTS])
def test_denied_device_is_quiet_and_ends(device: DeviceBench, cuts: tuple[int, ...]) -> None:
    """A device that is denied, in however many segments, sends nothing more, and ends."""
    with identified(device) as session:
        with step("the server denies the update"):
            session.peer.send_cut(DENIED, cuts, "answering the identification")
        situation = f"after {show(DENIED)}" + (f" in {len(cuts) + 1} segments" if cuts else "")
        session.expect_no_ack(device.settle_s, situation, "nothing, or a close")
        session.peer.stop_sending()
        session.expect_no_ack(device.settle_s, f"{situation} and the server's close", "nothing, or a close")
        session.peer.close()
        device.expect_end(f"{situation} and the server's close")


@pytest.mark.fota_requirement("FOTA-DEV-denied-untouched")
def test_denied_device_keeps_its_flash(device: DeviceBench) -> None:
    """A device that is denied keeps its flash as it was."""
    device.update(fixture("blink_1.s19"))
    before = device.flash()
    device.deny()

    device.expect_unchanged(before, device.target.memory.start, device.target.memory.end, f"after {show(DENIED)}")


@pytest.mark.fota_requirement("FOTA-DEV-denied-told")
def test_denied_device_says_refused(device: DeviceBench) -> None:
    """A device that is denied tells the outcome refused."""
    device.deny()

    device.expect_outcome("refused", f"after {show(DENIED)}")


@pytest.mark.fota_requirement("FOTA-DEV-unanswered-close")
@pytest.mark.parametrize("how", ["close", "reset"])
def test_unanswered_device_ends(device: DeviceBench, how: str) -> None:
    """A device whose server goes away without an answer ends, and is not updated."""
    situation = f"after a {how} by the server in the place of an answer"
    with identified(device) as session:
        session.peer.reset() if how == "reset" else session.peer.close()
        device.expect_end(situation)
    device.expect_not_updated(situation)


@pytest.mark.fota_requirement("FOTA-DEV-permission-split")
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_split_permission_counts(device: DeviceBench, cuts: tuple[int, ...]) -> None:
    """@4# counts once it is whole, in however many segments it comes."""
    with device.session() as session:
        session.expect_identification()
        with step("the server allows the update, in pieces"):
            session.peer.send_cut(ALLOWED, cuts, "answering the identification")
            session.hear_permission_ack()
        with in_situation(f"after {show(ALLOWED)} in {len(cuts) + 1} segments"):
            session.serve(fixture("blink_1.s19").records[:A_FEW])


@pytest.mark.fota_requirement("FOTA-DEV-permission-joined")
def test_record_in_the_permissions_segment_counts(device: DeviceBench) -> None:
    """@4# and the first record in one segment are two frames, and both count."""
    first, *others = fixture("blink_1.s19").records
    with device.session() as session:
        session.expect_identification()
        session.allow_with(first)
        session.serve(others)
        session.end("16")
