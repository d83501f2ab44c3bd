"""What a clean run counts, and how its cuts are numbered."""

import dataclasses

import pytest

import fota_fixtures
from fota_protocol.formats import load
from fota_protocol.parts import Part
from fota_simulator.boot import BootPolicy
from fota_simulator.errors import ScenarioError
from fota_simulator.flash import Flash, SectorPool
from fota_simulator.powercut.scenario import WHO
from fota_simulator.supply import CommandCut, CutMode, WireCut

from .images import LONGWORDS, PHRASES, SIZE, image, scenario


@pytest.mark.parametrize(("part", "commands"), [(LONGWORDS, 1 + SIZE // 4), (PHRASES, 1 + SIZE // 8)])
def test_clean_run_counts_commands_bytes_and_times(part: Part, commands: int) -> None:
    """One erase and one program for each unit; every byte both ways; the data sheet's times."""
    under_test = scenario(part=part)
    frames = under_test.server_frames

    clean = under_test.clean

    erase_s, program_s = (0.014, 65e-6) if part is LONGWORDS else (0.015, 70e-6)
    assert commands == clean.commands
    assert len(WHO.encode()) + sum(map(len, frames)) + len(frames) == clean.wire_bytes
    assert clean.typical_s == pytest.approx(erase_s + (commands - 1) * program_s)
    assert clean.maximum_s > 2 * clean.typical_s


def test_base_runs_the_old_application() -> None:
    """Before the update there is the old image, and nothing else, behind the bootloader."""
    under_test = scenario()

    flash = Flash(LONGWORDS, SectorPool(), under_test.base)

    old = image(1)
    assert old.read(old.first, old.end) == flash.read(old.first, old.end)
    assert flash.is_erased(old.end, LONGWORDS.flash_end)


def test_every_cut_has_a_number_and_every_number_a_cut() -> None:
    """Three for each command, then one for each byte."""
    under_test = scenario()
    commands, cuts = under_test.clean.commands, under_test.cuts

    found = [under_test.cut(number) for number in range(1, cuts + 1)]

    assert list(range(1, cuts + 1)) == [under_test.number(cut) for cut in found]
    assert [CommandCut(1, mode) for mode in CutMode] == found[:3]
    assert [CommandCut(commands, CutMode.AFTER), WireCut(1)] == found[3 * commands - 1 : 3 * commands + 1]
    assert WireCut(under_test.clean.wire_bytes) == found[-1]


def test_cut_that_is_not_there_says_which_are() -> None:
    """Before the first, behind the last, and by name."""
    under_test = scenario()

    for number in (0, under_test.cuts + 1):
        with pytest.raises(ScenarioError, match=f"expected 1 to {under_test.cuts}"):
            under_test.cut(number)
    with pytest.raises(ScenarioError, match="expected a flash command from 1 to 257"):
        under_test.number(CommandCut(258, CutMode.TORN))
    with pytest.raises(ScenarioError, match=f"expected a byte from 1 to {under_test.clean.wire_bytes}"):
        under_test.number(WireCut(under_test.clean.wire_bytes + 1))


@pytest.mark.parametrize("which", ["old", "new"])
def test_image_that_the_policy_refuses_cannot_be_cut(which: str) -> None:
    """An update that fails without a power cut says nothing about power cuts."""
    unsealed = load(fota_fixtures.read("blink_1_unsealed.s19"))
    sealed = scenario(BootPolicy.SEALED)
    under_test = (
        dataclasses.replace(sealed, old=unsealed) if which == "old" else dataclasses.replace(sealed, new=unsealed)
    )

    with pytest.raises(ScenarioError, match=r"image is not accepted \(end frame: no seal"):
        _ = under_test.clean


def test_image_that_does_not_run_cannot_be_cut() -> None:
    """A device that takes anything may still have nothing to run."""
    broken = load(fota_fixtures.read("bad_vectors_stack.s19"))
    under_test = dataclasses.replace(scenario(BootPolicy.AN2295), new=broken)

    with pytest.raises(ScenarioError, match="not started"):
        _ = under_test.clean
