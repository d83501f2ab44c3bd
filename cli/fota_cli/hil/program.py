"""`fota hil program`: one board with the stock serial bootloader, programmed from a file or by a server's update.

Here is the order in which things happen, what is told to whom, and the exit code. What a board is asked, what an image
becomes and who presses buttons is in `fota_hil`.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from fota_hil.an2295_master import Master, QuitAnswer, Tally, described
from fota_hil.errors import (
    BoardError,
    BoardFault,
    HandNeeded,
    PlanError,
    PortError,
    PortNameError,
    ProgramError,
    ServerError,
    TemplateError,
)
from fota_hil.plan import Layout, Plan, estimate, make_plan
from fota_hil.programmer import BoardState, Programmer
from fota_hil.serial_link import SerialLink
from fota_hil.templates import Act, Hands
from fota_hil.transcript import TRANSCRIPT_LIMIT, render_transcript
from fota_hil.update import StoreTarget, StreamTarget, await_close, has_closed, play
from fota_protocol.device import Result
from fota_protocol.image import FirmwareImage
from fota_transport.clock import SystemClock
from fota_transport.errors import LinkLost
from fota_transport.links import TcpLink
from fota_transport.trace import Trace

from .. import exit_codes
from ..device_options import identification, server_address, timings
from ..files import read_image, write_file, write_json
from ..progress import PLAIN_INTERVAL, WorkProgress
from .program_options import DESCRIPTION, EndAck, Mode, add_options, check, regex, templates

EXPECT_LIMIT: Final = 65_536
"""Newest bytes of an application's output in which --expect is looked for."""

BANNER_SHOWN: Final = 200
"""Bytes of it that are shown where it was not found."""

QUIT_ATTEMPTS: Final = 3
"""How often a board that came back into its bootloader is asked to quit, if somebody can let go of SW1."""

JSON_VERSION: Final = 1
"""Version of the JSON outcome."""


def configure(actions: Any) -> None:
    """Add the action."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "program",
        help="program a board with the stock serial bootloader, from a file or from a server",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(action=run)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Program the board; returns the exit code."""
    job = _Job(args)
    return job.run()


class _Job:
    """One run: what was asked, how far it is, and what came of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Look at everything that can be wrong before a port is opened; raises `UsageError`."""
        self._args = args
        check(args)
        self._mode = Mode.FILE if args.server is None else Mode.STREAM if args.stream else Mode.STORE
        self._server = None if args.server is None else server_address(args.server)
        self._timings = timings(args.timeout)
        self._who = None if args.mcuid is None else identification(args.mcuid, args.suffix)
        self._image = None if args.image is None else read_image(args.image)
        self._expect = None if args.expect is None else regex(args.expect)
        self._clock = SystemClock()
        self._trace = Trace(self._clock.monotonic(), limit_bytes=TRANSCRIPT_LIMIT)
        values = {"port": args.serial, "baud": str(args.baud), "mcuid": "" if self._who is None else self._who.mcuid}
        self._hands = Hands(
            templates(args),
            values,
            tell=_tell,
            wait=None if args.no_input or not _has_person() else _ask,
            timeout_s=args.command_timeout,
        )
        self._master: Master | None = None
        self._programmer: Programmer | None = None
        self._plan: Plan | None = None
        self._link: TcpLink | None = None
        """The connection of an update that is acked, until the server has closed it."""
        self._work: Tally | None = None
        self._elapsed_s = 0.0
        self._outcome: dict[str, Any] = {
            "version": JSON_VERSION,
            "outcome": "failed",
            "reason": None,
            "detail": "",
            "mode": self._mode.value,
            "port": args.serial,
            "baud": args.baud,
            "mcuid": None if self._who is None else self._who.mcuid,
            "board": None,
            "image": None,
            "state": BoardState.UNTOUCHED.value,
            "verified": None,
            "server": None,
            "quit": None,
            "banner": None,
            "retries": 0,
            "timing": None,
            "notes": [],
        }

    @property
    def _state(self) -> BoardState:
        return BoardState.UNTOUCHED if self._programmer is None else self._programmer.state

    @property
    def _board(self) -> str:
        who = described(self._master.ident) if self._master is not None and self._master.is_connected else "the board"
        return f"{who} on {self._args.serial}"

    def run(self) -> int:
        """Do it; whatever happens, files are written and somebody is told."""
        code = exit_codes.FAILED
        # A time-out of CI ends it as a person does, also where a script's `&` has Ctrl-C ignored.
        former = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with contextlib.ExitStack() as stack:
                stack.push(self._part)
                self._hand_to_hand()
            self._outcome["outcome"] = "updated"
            code = exit_codes.OK
        except KeyboardInterrupt:
            self._outcome["outcome"] = "interrupted"
            code = self._ended("interrupted", f"interrupted, {self._doing}", exit_codes.INTERRUPTED)
        except BoardError as error:
            code = self._ended(error.fault.value, str(error), exit_codes.FAILED)
        except PlanError as error:
            bad_input = self._mode is Mode.FILE
            code = self._ended("image", str(error), exit_codes.USAGE if bad_input else exit_codes.FAILED)
        except ServerError as error:
            code = self._ended("server", str(error), exit_codes.FAILED)
        except PortError as error:
            named = isinstance(error, PortNameError)
            code = self._ended("port", str(error), exit_codes.USAGE if named else exit_codes.HARNESS)
        except (TemplateError, HandNeeded) as error:
            code = self._ended("hands", str(error), exit_codes.HARNESS)
        except LinkLost as error:
            code = self._ended("port", f"{error}, {self._doing}. Plug the board in again", exit_codes.HARNESS)
        finally:
            self._write_files()
            signal.signal(signal.SIGTERM, former)
        return code

    @property
    def _doing(self) -> str:
        if self._programmer is not None:
            return self._programmer.doing
        return (
            "before the board was reached" if self._master is None or not self._master.is_connected else "nothing done"
        )

    def _ended(self, reason: str, detail: str, code: int) -> int:
        """Note and say why it did not come to its end, and what the board is like now."""
        self._outcome["reason"] = reason
        self._outcome["detail"] = detail
        state = {
            BoardState.UNTOUCHED: "Its flash was not changed",
            BoardState.INCOMPLETE: (
                "Its application is gone: run this command again, "
                "with its pin (SW1) held if it was reset or lost its power"
            ),
            BoardState.PROGRAMMED: "The new image is whole in its flash; to start it, reset the board with SW1 let go",
        }[self._state]
        end = "" if detail.endswith(("?", ".")) else "."
        print(f"fota: {self._board}: {detail}{end} {state}.", file=sys.stderr)
        return code

    def _hand_to_hand(self) -> None:
        """All of it, in its order."""
        args = self._args
        with SerialLink.open(args.serial, args.baud) as line:
            self._hands.enter()
            master = Master(
                line,
                self._clock,
                baud=args.baud,
                retries=args.retries,
                trace=self._trace if args.transcript is not None else None,
            )
            self._master = master
            ident = master.connect(args.hook_timeout, calibrate=args.calibrate, on_silence=self._hands.help_silent)
            _tell(f"board: {described(ident)}")
            if self._hands.person_entered:
                _tell("SW1 may be let go")
            self._outcome["board"] = {
                "name": ident.name,
                "version": f"{ident.version:02X}",
                "sdid": f"{ident.sdid:04X}",
                "flash": [[start, end] for start, end in ident.blocks],
                "erase_size": ident.erase_size,
                "write_size": ident.write_size,
            }
            layout = Layout(ident)
            try:
                match self._mode:
                    case Mode.FILE:
                        assert self._image is not None
                        self._program(master, self._planned(master, self._image))
                    case Mode.STORE:
                        self._store(master)
                    case Mode.STREAM:
                        self._stream(master, layout)
            except (PlanError, ServerError):
                if self._state is BoardState.UNTOUCHED:
                    self._release(master)
                raise
            except KeyboardInterrupt:
                self._hands.hurry()
                if self._state is BoardState.UNTOUCHED:
                    self._release(master)
                raise
            except BoardError as error:
                # A board that refuses its first erase is as it was, and answers.
                if self._state is BoardState.UNTOUCHED and error.fault is BoardFault.ERASE:
                    self._release(master)
                raise
            self._say_timing()
            self._leave(master, line)

    def _planned(self, master: Master, image: FirmwareImage) -> Plan:
        """The image on this board; raises `PlanError` while nothing of it was touched."""
        args = self._args
        plan = make_plan(image, master.ident, relocate=args.relocate, any_vectors=args.any_vectors)
        for note in (*image.warnings, *plan.notes):
            self._note(note)
        self._outcome["image"] = {
            "crc32": f"{plan.image.crc32:08X}",
            "first": plan.image.first,
            "end": plan.image.end,
        }
        self._plan = plan
        return plan

    def _new_programmer(self, master: Master, layout: Layout, on_progress: Callable[[str, int], None]) -> Programmer:
        programmer = Programmer(
            master,
            layout,
            verify=not self._args.no_verify,
            on_progress=on_progress,
            revive=lambda: self._revive(master),
        )
        if not self._args.no_verify and not programmer.verify:
            self._note("the board cannot be read, so nothing is read back")
        self._programmer = programmer
        return programmer

    def _revive(self, master: Master) -> bool:
        return self._hands.revive(lambda: master.connect(self._args.hook_timeout))

    def _program(self, master: Master, plan: Plan) -> None:
        """Put a plan onto the board, with a progress bar."""
        will = estimate(plan, self._args.baud, verify=not self._args.no_verify)
        _tell(
            f"image {plan.image.crc32:08X}: {len(plan.erases)} sectors, {len(plan.pieces)} pieces, "
            f"{will.line_bytes} bytes on the line, about {will.total_s:.0f} s"
        )
        verify = not self._args.no_verify and master.ident.can_read
        size = sum(len(piece.data) for piece in plan.pieces)
        total = len(plan.erases) * plan.layout.ident.erase_size + size * (2 if verify else 1)
        done = 0
        with WorkProgress("programmed", self._args.plain) as progress, self._timed(master):

            def on_progress(_: str, more: int) -> None:
                nonlocal done
                done += more
                progress.update(min(1.0, done / total))

            programmer = self._new_programmer(master, plan.layout, on_progress)
            programmer.program(plan)
        self._outcome["verified"] = True if programmer.verify else None

    @contextlib.contextmanager
    def _timed(self, master: Master) -> Iterator[None]:
        """What is done here is the work whose time is reckoned."""
        before, began = master.tally.copy(), self._clock.monotonic()
        try:
            yield
        finally:
            self._work = master.tally.minus(before)
            self._elapsed_s = self._clock.monotonic() - began

    def _store(self, master: Master) -> None:
        """Fetch the whole image, then program it."""
        args = self._args
        gone = False
        planned: list[Plan] = []

        def on_image(image: FirmwareImage, version: str) -> None:
            nonlocal gone
            plan = self._planned(master, image)
            planned.append(plan)
            if args.end_ack is EndAck.AFTER:
                self._check_end_ack_time(plan)
                self._program(master, plan)
                gone = self._link is not None and has_closed(self._link)

        self._play(StoreTarget(on_image))
        server = self._outcome["server"]
        if args.end_ack is EndAck.AFTER:
            server["end_ack_s"] = round(self._elapsed_s, 3)
            server["end_acked"] = not gone
            if gone:
                self._note("the server had closed before its end frame could be acked: it counts no update")
            if self._elapsed_s > args.end_ack_time:
                self._note(
                    f"the end frame was acked after {self._elapsed_s:.1f} s, more than {args.end_ack_time:g}: "
                    "the server may count the update as failed"
                )
        else:
            self._program(master, planned[-1])

    def _check_end_ack_time(self, plan: Plan) -> None:
        args = self._args
        verify = not args.no_verify
        longest = estimate(plan, args.baud, verify=verify, at_worst=True).total_s
        if longest > args.end_ack_time:
            raise PlanError(
                f"programming takes up to {longest:.0f} s at {args.baud} baud, and the server waits "
                f"{args.end_ack_time:g} s for the end frame's ack. Have it wait longer (its --end-ack-timeout, and our "
                "--end-ack-time), or ack before programming (--end-ack receipt), or stream (--stream)"
            )

    def _stream(self, master: Master, layout: Layout) -> None:
        """Program while records come."""
        written = 0
        told = time.monotonic()

        def on_progress(what: str, size: int) -> None:
            nonlocal written, told
            written += size if what == "writing" else 0
            if (now := time.monotonic()) - told >= PLAIN_INTERVAL:
                told = now
                print(f"{written} bytes of the stream are written", file=sys.stderr, flush=True)

        programmer = self._new_programmer(master, layout, on_progress)
        target = StreamTarget(programmer, layout, any_vectors=self._args.any_vectors)
        with self._timed(master):
            self._play(target)
        crc = target.image_crc()
        self._outcome["image"] = {"crc32": f"{crc or 0:08X}"}
        self._outcome["verified"] = True if programmer.verify else None

    def _play(self, target: StoreTarget | StreamTarget) -> None:
        """One session with the server; raises `ServerError` unless the update came to its end."""
        assert self._server is not None
        assert self._who is not None
        args = self._args
        try:
            link = TcpLink.connect(*self._server, args.timeout)
        except (LinkLost, TimeoutError) as error:
            raise ServerError(str(error)) from error
        self._link = link
        try:
            outcome, records = play(
                self._who,
                target,
                link,
                self._clock,
                acks_verdict=not args.no_verdict_ack,
                timings=self._timings,
            )
        except BaseException:
            self._hang_up()
            raise
        self._outcome["server"] = {
            "result": outcome.result.value,
            "detail": outcome.detail,
            "version": outcome.version,
            "records": records,
        }
        if outcome.result is Result.REFUSED:
            self._outcome["outcome"] = "refused"
        if outcome.result is not Result.UPDATED:
            self._hang_up()
            raise ServerError(f"server {args.server}: {outcome.detail}, after {records} records")

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _part(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let the server close a connection whose end frame is acked, unless somebody waits for our end."""
        try:
            if self._link is not None and self._outcome["server"] is not None and kind is not KeyboardInterrupt:
                await_close(self._link, self._clock)
        finally:
            self._hang_up()

    def _release(self, master: Master) -> None:
        """Give a board that was not touched back to its application, if it has one."""
        with contextlib.suppress(ProgramError, LinkLost):
            table = master.ident.relocated_table
            if master.ident.can_read and master.read(table, 8).strip(b"\xff"):
                if self._hands.has(Act.LEAVE):
                    self._hands.leave()
                master.quit()
                self._note("the board was told to start its application again")

    def _leave(self, master: Master, line: SerialLink) -> None:
        """Start the application, and see that it does."""
        args = self._args
        for attempt in range(1, QUIT_ATTEMPTS + 1):
            if attempt == 1:
                self._hands.leave()
            answer = master.quit()
            self._outcome["quit"] = answer.value
            if self._expect is not None:
                same = args.expect_baud in (None, args.baud)
                if not same:
                    line.set_baud(args.expect_baud)
                if self._saw_banner(line, master.behind if same else b""):
                    return
                if not same:
                    line.set_baud(args.baud)
            if not master.announces():
                break
            self._outcome["quit"] = "bootloader"
            if args.no_input or not _has_person() or attempt == QUIT_ATTEMPTS:
                self._note("the board is in its bootloader again: let SW1 go and reset it, to start the application")
                break
            self._hands.ask("the board is in its bootloader again: SW1 must be let go")
            master.connect(args.hook_timeout)
        if self._expect is not None:
            raise BoardError(
                f"the application did not say {args.expect!r} within {args.expect_timeout:g} s at "
                f"{args.expect_baud or args.baud} baud; it said {self._outcome['banner']!r}",
                fault=BoardFault.BANNER,
            )
        if answer is QuitAnswer.UNHEARD:
            self._note("no answer to quit was heard; the bootloader does not answer any more")

    def _saw_banner(self, line: SerialLink, heard: bytes) -> bool:
        """Whether the application says what it should; `heard` it has said already."""
        assert self._expect is not None
        until = self._clock.monotonic() + self._args.expect_timeout
        while (found := self._expect.search(heard)) is None:
            try:
                heard = (heard + line.read(max(0.0, until - self._clock.monotonic())))[-EXPECT_LIMIT:]
            except TimeoutError:
                break
            if self._clock.monotonic() > until:
                break
        said = heard[-BANNER_SHOWN:] if found is None else found[0]
        self._outcome["banner"] = said.decode("utf-8", "backslashreplace")
        if found is not None:
            _tell(f"the application says {self._outcome['banner']!r}")
        return found is not None

    def _say_timing(self) -> None:
        """What the work took, and what the line allows."""
        work, line_s, _ = self._timing()
        size = work.bytes_sent + work.bytes_received
        text = f"{size} bytes in {self._elapsed_s:.2f} s; {line_s:.2f} s on the line at {self._args.baud} baud"
        text += f" and {work.flash_s:.2f} s of flash"
        if self._mode is not Mode.STREAM:
            text += f": {self._elapsed_s / (line_s + work.flash_s) - 1:+.1%}"
        verified = "read back and right" if self._outcome["verified"] else "not read back"
        retries = f", {work.failures} requests repeated" if work.failures else ""
        print(f"{self._board}: programmed, {verified}{retries}. {text}", file=sys.stderr)

    def _timing(self) -> tuple[Tally, float, dict[str, Any]]:
        work = self._work or Tally()
        line_s = (work.bytes_sent + work.bytes_received) * 10 / self._args.baud
        return (
            work,
            line_s,
            {
                "bytes_sent": work.bytes_sent,
                "bytes_received": work.bytes_received,
                "line_s": round(line_s, 3),
                "flash_s": round(work.flash_s, 3),
                "elapsed_s": round(self._elapsed_s, 3),
            },
        )

    def _note(self, text: str) -> None:
        self._outcome["notes"].append(text)
        _tell(text)

    def _write_files(self) -> None:
        args = self._args
        self._outcome["state"] = self._state.value
        self._outcome["detail"] = self._outcome["detail"] or self._outcome["outcome"]
        if self._master is not None:
            self._outcome["retries"] = self._master.tally.failures
        if self._work is not None:
            self._outcome["timing"] = self._timing()[2]
        if args.transcript is not None:
            ident = self._master.ident if self._master is not None and self._master.is_connected else None
            write_file(args.transcript, render_transcript(self._trace, ident).encode())
        if args.json is not None:
            write_json(args.json, self._outcome)


def _has_person() -> bool:
    """Whether somebody sits at standard input; it may be closed, too."""
    return sys.stdin is not None and sys.stdin.isatty()


def _tell(text: str) -> None:
    print(f"fota: {text}", file=sys.stderr, flush=True)


def _ask(what: str) -> None:
    print(f"fota: {what}. Press Enter when it is done.", file=sys.stderr, flush=True)
    if not sys.stdin.readline():
        raise HandNeeded(f"{what}; nobody is there to do it")
