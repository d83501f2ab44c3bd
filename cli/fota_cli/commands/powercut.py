"""Cut the power of a virtual K60 at every moment of an update, and see what it does afterwards.

A clean update over an old application is counted: its flash commands and its bytes on the wire. Then the power fails at
each of them: before a command, within it (torn: a part of its bits have changed), after it, and before each byte. The
device is started again, and updated again. Cuts that leave a device in the same state are judged once; a sample is
played cut by cut and must agree.

  fota powercut
  fota powercut app.s19 --old earlier.s19 --part TWR-K60F120M
  fota powercut --policy all --order all
  fota powercut --cut command:317:torn --events - --device after.k60

Exit code 0 if the policy's promises were kept, 1 if one was broken (of --cut: if the device cannot be updated again
without a hand), 3 if the sample disagrees, 4 if a process was lost.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import fota_fixtures
from fota_protocol.errors import ImageError
from fota_protocol.image import FirmwareImage
from fota_protocol.parts import DEFAULT_PART, Part
from fota_simulator.boot import BootloaderSettings, BootPolicy, ProgrammingOrder
from fota_simulator.device_file import save
from fota_simulator.errors import DeviceFileError, JudgeError, ScenarioError, WorkerLost
from fota_simulator.powercut.play import play
from fota_simulator.powercut.run import SAMPLE, CutReport
from fota_simulator.powercut.run import run as run_cuts
from fota_simulator.powercut.scenario import Scenario
from fota_simulator.powercut.verdict import Recovery
from fota_simulator.supply import parse_cut

from .. import exit_codes
from ..choices import ALL, one_or_all
from ..cut_tables import as_json, as_markdown, as_text
from ..device_options import PART_NAMES, part_named
from ..errors import HarnessError, UsageError
from ..files import check_writable, read_image, write_file, write_json
from ..progress import WorkProgress

NEW_IMAGE: Final = "demo_16k.s19"
OLD_IMAGE: Final = "demo_32k.s19"
DEFAULT_SEED: Final = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of a run."""
    add = parser.add_argument
    add("image", nargs="?", type=Path, metavar="IMAGE", help=f"the new firmware (default: {NEW_IMAGE}, shipped)")
    add("--old", type=Path, metavar="FILE", help=f"the application before the update (default: {OLD_IMAGE}, shipped)")
    add("--part", default=DEFAULT_PART, metavar="NAME", help=f"part or board: {PART_NAMES} (default: {DEFAULT_PART})")
    add(
        "--policy",
        type=one_or_all(BootPolicy),
        default=[BootPolicy.SEALED],
        metavar="|".join((*(policy.value for policy in BootPolicy), ALL)),
        help="what the bootloader demands of an image (default: sealed)",
    )
    add(
        "--order",
        type=one_or_all(ProgrammingOrder),
        default=[ProgrammingOrder.VECTORS_LAST],
        metavar="|".join((*(order.value for order in ProgrammingOrder), ALL)),
        help="when it programs the vectors (default: vectors-last)",
    )
    add("--cut", metavar="CUT", help="play one cut: its number, command:N:before|torn|after, or byte:N")
    add("--events", type=Path, metavar="FILE", help="with --cut: write what happened, as JSON for .json; - for output")
    add("--device", type=Path, metavar="FILE", help="with --cut: write the device as the cut left it")
    add("--seed", type=int, default=DEFAULT_SEED, metavar="N", help="torn bits and sample (default: 60)")
    add("--sample", type=int, default=SAMPLE, metavar="N", help=f"cuts played one by one (default: {SAMPLE})")
    add("--jobs", type=int, metavar="N", help="processes (default: one per core)")
    add("--json", type=Path, metavar="FILE", help="write the figures as JSON; - for standard output")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--plain", action="store_true", help="lines instead of a progress bar")


def run(args: argparse.Namespace) -> int:
    """Cut and judge; returns the exit code."""
    for path in (args.json, args.events, args.device):
        check_writable(path)
    if str(args.device) == "-":
        raise UsageError("a device is kept in a file, expected a name and not -")
    if str(args.json) == str(args.events) == "-":
        raise UsageError("--json and --events both to standard output, expected a file for one of them")
    if args.sample < 0:
        raise UsageError(f"sample {args.sample}, expected 0 or more cuts")
    jobs = len(os.sched_getaffinity(0)) if args.jobs is None else args.jobs
    if not 1 <= jobs <= 256:
        raise UsageError(f"jobs {jobs}, expected 1 to 256 processes")
    part = part_named(args.part)
    new, new_name = _image(args.image, NEW_IMAGE, part)
    old, old_name = _image(args.old, OLD_IMAGE, part)
    settings = [BootloaderSettings(policy, order) for policy in args.policy for order in args.order]
    scenarios = [Scenario(part, kind, old, new, args.seed) for kind in settings]
    try:
        if args.cut is not None:
            return _one(scenarios, args)
        if args.events is not None or args.device is not None:
            raise UsageError("--events and --device go with --cut")
        return _all(scenarios, f"{old_name} to {new_name}", jobs, args)
    except ScenarioError as error:
        raise UsageError(str(error)) from error
    except JudgeError as error:
        raise HarnessError(f"the judge is wrong, please report it: {error}") from error
    except WorkerLost as error:
        print(f"fota: {error}", file=sys.stderr)
        return exit_codes.INVALID


def _all(scenarios: Sequence[Scenario], images: str, jobs: int, args: argparse.Namespace) -> int:
    """Every cut of every scenario."""
    found: list[dict[str, Any]] = []
    code = exit_codes.OK
    for scenario in scenarios:
        scenario.clean  # noqa: B018  # says here what is wrong with the images, before anything is judged
    for scenario in scenarios:
        began = time.monotonic()
        with WorkProgress("cuts judged and played", args.plain) as progress:
            report = run_cuts(scenario, jobs=jobs, sample=args.sample, on_progress=progress.update)
        duration_s = time.monotonic() - began
        found.append(as_json(scenario, images, report, duration_s))
        if str(args.json) != "-":
            show = as_markdown if args.markdown else as_text
            print(show(scenario, images, report, duration_s), flush=True)
        code = max(code, _code(report))
    if args.json is not None:
        write_json(args.json, {"version": 1, "runs": found})
    return code


def _code(report: CutReport) -> int:
    if report.disagreements:
        return exit_codes.HARNESS
    return exit_codes.OK if report.kept else exit_codes.FAILED


def _one(scenarios: Sequence[Scenario], args: argparse.Namespace) -> int:
    """One cut, played."""
    if len(scenarios) > 1:
        raise UsageError("--cut plays one policy and one order, expected no 'all'")
    (scenario,) = scenarios
    try:
        cut = scenario.cut(int(args.cut)) if re.fullmatch("[0-9]{1,12}", args.cut) else parse_cut(args.cut)
    except ValueError as error:
        raise UsageError(str(error)) from error
    number = scenario.number(cut)
    played = play(scenario, cut, traced=True)
    trace = played.trace
    if args.events is not None and trace is not None:
        text = trace.to_json() if args.events.suffix == ".json" else trace.to_text()
        if str(args.events) == "-":
            sys.stdout.write(text)
        else:
            write_file(args.events, text.encode())
    if args.device is not None:
        try:
            save(args.device, played.device)
        except DeviceFileError as error:
            raise UsageError(f"cannot write {error}") from error
    verdict = played.verdict
    story = {
        "cut": number,
        "at": str(cut),
        "where": played.detail,
        "records": played.records,
        "start": verdict.start.value,
        "recovery": verdict.recovery.value,
        "bootloader_kept": verdict.bootloader_kept,
        "seed": scenario.seed,
    }
    if args.json is not None:
        write_json(args.json, {"version": 1, **story})
    if "-" not in (str(args.json), str(args.events)):
        print(
            f"cut {number} of {scenario.cuts:,} ({cut}): power lost {played.detail}, after {played.records} records\n"
            f"then: {verdict.start.value}\nnext update: {verdict.recovery.value}"
        )
    return exit_codes.OK if verdict.recovery is Recovery.ITSELF else exit_codes.FAILED


def _image(path: Path | None, shipped: str, part: Part) -> tuple[FirmwareImage, str]:
    """A firmware file that fits the part, and its name; raises `UsageError`."""
    found = fota_fixtures.path(shipped) if path is None else path
    image = read_image(found)
    try:
        image.check_fits(part)
    except ImageError as error:
        raise UsageError(f"firmware {found}: {error}") from error
    return image, found.name
