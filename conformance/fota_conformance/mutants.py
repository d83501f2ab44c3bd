"""The judge is judged: every broken target of the zoo must be found out, every good one must pass.

Each target is judged by the kit's own command in a process of its own, as anybody's would be. A fault is caught when a
case that cites the requirement which it breaks came to FAIL; where the requirement binds nobody (a SHOULD), NON-STRICT
is all that a case may say. What is not caught is a hole in the cases, or a fault that shows to nobody.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fota_conformance.catalogue import PROFILE, load
from fota_conformance.run import interrupt_all, run
from fota_conformance.verdicts import EXIT_WELL, Verdict
from fota_conformance.zoo.faults import FAULTS, GOOD, Fault, Good

DEADLINE: Final = 3.0
"""Seconds that good targets wait: a judge on a busy machine must not find them early or late."""
SHORT_DEADLINE: Final = 1.5
"""Seconds that broken ones wait: long enough to be broken in one way only."""
GRACE: Final = 0.8
"""Seconds of grace of good servers, and more than a busy judge takes from one read to the next."""
SHORT_GRACE: Final = 0.4
"""Seconds of grace of broken ones."""
PATIENCE: Final = {"answer": 10, "frame": 10, "close": 10, "exit": 10, "stop": 3}
"""The kit's own time-outs for good targets, which never run into them."""
IMPATIENCE: Final = {"answer": 2, "frame": 2, "close": 2, "exit": 2, "stop": 2}
"""For broken ones, which do."""
RUNS_PER_WORKER: Final = 4
"""Runs at once for each worker: a run mostly waits for its target's deadlines and silences."""
OUTPUT_NAME: Final = "output.log"
"""What the run of one target said, in its folder."""


PAGE_HEAD: Final = """\
# The judge, judged

A conformance kit that finds nothing is worth nothing. So the kit has a zoo: a good server and a good device that share
no code with the kit or with this project's own, and broken ones with one wrong idea each, D1 to D20 of
[the reference server](server.md#coming-from-the-reference-server) among them. Every broken one must be found out by a
case that cites the requirement which it breaks, and the good ones must pass everything: {caught} of {faults} faults are
caught, and {goods} good targets were judged. Each run ends with its first failure, which is the case named here.

This page is made by `fota conformance mutants --markdown docs/kill-table.md`; `tox -e mutants` does the same in CI. To
look at one: `python -m fota_conformance.zoo server --list`, and `fota conformance mutants NAME --results DIR`.
"""
"""How the page of the documentation begins."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken target, and who found it out."""

    fault: Fault
    caught_by: tuple[str, ...]
    """Ids of the cases."""
    message: str
    """The first line of what the first of them says; where none caught it, what was seen instead."""
    duration_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.fault.name,
            "role": self.fault.role,
            "title": self.fault.title,
            "breaks": self.fault.breaks,
            "revision": self.fault.revision,
            "handshake": self.fault.handshake,
            "caught_by": list(self.caught_by),
            "message": self.message,
            "duration_s": round(self.duration_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Control:
    """One good target, and what the cases say of it."""

    good: Good
    counts: dict[str, int]
    """Cases by verdict."""
    ok: bool
    """Whether the run's exit code says that all is well."""
    message: str
    """What is wrong, the first of it; empty for nothing."""
    duration_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.good.name,
            "role": self.good.role,
            "revision": self.good.revision,
            "handshake": self.good.handshake,
            "counts": self.counts,
            "ok": self.ok,
            "message": self.message,
            "duration_s": round(self.duration_s, 3),
        }


@dataclass(frozen=True, slots=True)
class MutantReport:
    """What all targets came to, in the order of the zoo's table."""

    mutants: tuple[Mutant, ...]
    controls: tuple[Control, ...]
    duration_s: float

    @property
    def ok(self) -> bool:
        """Whether every fault was caught and every good target passed."""
        return all(mutant.caught_by for mutant in self.mutants) and all(control.ok for control in self.controls)

    @property
    def summary(self) -> str:
        """One line."""
        caught = sum(bool(mutant.caught_by) for mutant in self.mutants)
        passed = sum(control.ok for control in self.controls)
        return (
            f"{caught} of {len(self.mutants)} faults caught, {passed} of {len(self.controls)} good targets passed, "
            f"{self.duration_s:.0f} s"
        )

    def table(self) -> list[str]:
        """Lines for a terminal."""
        lines = []
        for control in self.controls:
            counts = ", ".join(f"{count} {verdict}" for verdict, count in control.counts.items())
            lines.append(f"{'passed' if control.ok else 'FAILED':<8} {control.good.name:<28} {counts}")
            lines += [f"         {control.message}"] if control.message else []
        for mutant in self.mutants:
            found = bool(mutant.caught_by)
            lines.append(f"{'caught' if found else 'MISSED':<8} {mutant.fault.name:<28} {mutant.fault.breaks}")
            lines += [] if found else [f"         {mutant.fault.title}", f"         {mutant.message}"]
        return [*lines, "", self.summary]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "ok": self.ok,
            "duration_s": round(self.duration_s, 3),
            "controls": [control.as_json() for control in self.controls],
            "mutants": [mutant.as_json() for mutant in self.mutants],
        }

    def markdown(self) -> str:
        """A page for the documentation; without durations, so that two runs make the same text."""
        caught = sum(bool(mutant.caught_by) for mutant in self.mutants)
        lines = [PAGE_HEAD.format(caught=caught, faults=len(self.mutants), goods=len(self.controls))]
        lines += ["| good target | cases | |", "| --- | --- | --- |"]
        for control in self.controls:
            counts = ", ".join(f"{count} {verdict}" for verdict, count in control.counts.items())
            lines.append(f"| `{control.good.name}` | {counts} | {'passed' if control.ok else '**failed**'} |")
        for role in ("server", "device"):
            mutants = [mutant for mutant in self.mutants if mutant.fault.role == role]
            if mutants:
                lines += [
                    "",
                    f"| broken {role} | what it does wrong | breaks | caught by |",
                    "| --- | --- | --- | --- |",
                ]
                lines += [_markdown_row(mutant) for mutant in mutants]
        return "\n".join(lines) + "\n"


def run_mutants(workers: int, only: Sequence[str], results_dir: Path, progress: Callable[[str], None]) -> MutantReport:
    """Judge the zoo with as many processors as `workers`; `only` are names of faults and good targets, none for all.

    Each target's results go to a folder of its name in `results_dir`; `progress` gets a line for each that is done.
    Raises `ValueError` for an unknown name.
    """
    began = time.monotonic()
    names = {target.name for target in (*GOOD, *FAULTS)}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"the zoo has no {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    goods = [good for good in GOOD if not only or good.name in only]
    faults = [fault for fault in FAULTS if not only or fault.name in only]

    def control(good: Good) -> Control:
        done = _judge_good(good, results_dir / good.name)
        progress(f"{'passed' if done.ok else 'FAILED'} {good.name} ({done.duration_s:.1f} s)")
        return done

    def mutant(fault: Fault) -> Mutant:
        done = _judge_fault(fault, results_dir / fault.name)
        progress(f"{'caught' if done.caught_by else 'MISSED'} {fault.name} ({done.duration_s:.1f} s)")
        return done

    with ThreadPoolExecutor(workers * RUNS_PER_WORKER, thread_name_prefix="mutants") as pool:
        # The good ones take longest: first.
        controls = [pool.submit(control, good) for good in goods]
        mutants = [pool.submit(mutant, fault) for fault in faults]
        try:
            return MutantReport(
                tuple(future.result() for future in mutants),
                tuple(future.result() for future in controls),
                time.monotonic() - began,
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            interrupt_all()
            raise


def _judge_good(good: Good, folder: Path) -> Control:
    began = time.monotonic()
    code, results = _run(good, folder, "", ())
    cases = results["cases"]
    counts = Counter(case["verdict"] for case in cases)
    wrong = [f"{case['id']}: {_first_line(case)}" for case in cases if case["verdict"] != Verdict.PASS.value]
    return Control(
        good,
        {verdict.value: counts[verdict.value] for verdict in Verdict if counts[verdict.value]},
        code == EXIT_WELL and not wrong,
        "; ".join(wrong[:1] or results["shortfalls"]) if wrong or code != EXIT_WELL else "",
        time.monotonic() - began,
    )


def _judge_fault(fault: Fault, folder: Path) -> Mutant:
    began = time.monotonic()
    _, results = _run(fault, folder, fault.name, (fault.breaks,))
    requirement = load().requirement(fault.breaks)
    telling = {Verdict.FAIL.value} if requirement.binds(PROFILE) else {Verdict.FAIL.value, Verdict.NON_STRICT.value}
    citing = [case for case in results["cases"] if requirement.id in map(_id, case["requirements"])]
    caught = [case for case in citing if case["verdict"] in telling]
    if caught:
        message = _first_line(caught[0])
    elif citing:
        message = "; ".join(f"{case['verdict']} {case['id']} {_first_line(case)}".strip() for case in citing)
    else:
        message = f"no case for {fault.breaks} was played"
    return Mutant(fault, tuple(case["id"] for case in caught), message, time.monotonic() - began)


def _run(target: Good | Fault, folder: Path, fault: str, requirements: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and results of one run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "target.toml"
    path.write_text("\n".join([*_target_lines(target, fault), ""]), encoding="utf-8")
    with (folder / OUTPUT_NAME).open("wb") as output:
        # One failure is enough to find a fault out.
        code = run(path, folder, requirements=requirements, exit_first=bool(fault), allure=False, output=output)
    try:
        return code, json.loads((folder / "results.json").read_bytes())
    except FileNotFoundError:
        return code, {"cases": [], "shortfalls": [f"there are no results: {folder / OUTPUT_NAME}"]}


def _target_lines(target: Good | Fault, fault: str) -> Iterator[str]:
    """The target file. A JSON string is a TOML string, too."""
    command = [sys.executable, "-m", "fota_conformance.zoo", target.role, "--revision", target.revision]
    deadline, grace = (SHORT_DEADLINE, SHORT_GRACE) if fault else (DEADLINE, GRACE)
    command += ["--deadline", str(deadline)] + (["--fault", fault] if fault else [])
    yield f"kind = {json.dumps(f'{target.role}-by-command')}"
    yield f"name = {json.dumps(target.name)}"
    yield f"profile = {json.dumps(PROFILE)}"
    yield f"revision = {json.dumps(target.revision)}"
    yield f"handshake = {json.dumps(target.handshake)}"
    if target.role == "server":
        command += ["--handshake", target.handshake, "--grace", str(grace), "--host", "{host}", "--port", "{port}"]
        command += ["--registry", "{registry}", "--firmware", "{firmware}", "--logs", "{logs}"]
        yield 'ready = { log = "^listening$" }'
        deadlines = {"identification": deadline, "ack": deadline, "end_ack": deadline, "grace": grace}
    else:
        command += ["--acks-permission"] * (target.handshake == "wait") + ["--server", "{host}:{port}"]
        command += ["--mcuid", "{mcuid}", "--flash", "{artifacts}/flash.bin", "--outcome", "{artifacts}/outcome.json"]
        yield 'power_off = "kill -9 {pid}"'
        deadlines = {"answer": deadline, "frame": deadline}
    yield f"command = {json.dumps(command)}"
    yield from ("[deadlines]", *(f"{name} = {seconds}" for name, seconds in deadlines.items()))
    timeouts = IMPATIENCE if fault else PATIENCE
    yield from ("[timeouts]", *(f"{name} = {seconds}" for name, seconds in timeouts.items()))
    if target.role == "device":
        yield from ("[observe]", 'flash = "{artifacts}/flash.bin"', 'outcome = "{artifacts}/outcome.json"')
        yield from ("[capabilities]", "bootloader = true", "seal = true", "vectors = true")


def _id(name: str) -> str:
    return load().requirement(name).id


def _first_line(case: dict[str, Any]) -> str:
    message: str = case["message"]
    return message.strip().partition("\n")[0]


def _markdown_row(mutant: Mutant) -> str:
    by = ", ".join(f"`{name}`" for name in mutant.caught_by) or f"**nobody**: {mutant.message}"
    fault = mutant.fault
    return " | ".join((f"| `{fault.name}`", fault.title, f"`{fault.breaks}`", by.replace("|", "\\|"))) + " |"
