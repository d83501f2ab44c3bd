"""`python -m fota_conformance.zoo server …` and `… device …`; `--list` names the faults.

A good target, which is started for every case of a device, loads nothing of the broken ones.
"""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fota_conformance.zoo.faults import Fault


def faults_of(role: str) -> "dict[str, Fault]":
    """The faults of one role, by name."""
    from fota_conformance.zoo.faults import FAULTS

    return {fault.name: fault for fault in FAULTS if fault.role == role}


class ListFaults(argparse.Action):
    """Print the faults of a role, and leave."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for fault in faults_of(str(self.const)).values():
            print(f"{fault.name:<26} {fault.title} ({fault.breaks})")
        parser.exit()


def run_server(args: argparse.Namespace) -> int:
    """Serve; a fault is of the sessions, or of the server itself."""
    from fota_conformance.zoo.server import Server, Session, serve

    broken = faults_of("server")[args.fault].target if args.fault else Session
    if issubclass(broken, Server):
        return serve(args, Session, broken)
    assert issubclass(broken, Session)
    return serve(args, broken, Server)


def run_device(args: argparse.Namespace) -> int:
    """Play one session."""
    from fota_conformance.zoo.device import Device, play

    broken = faults_of("device")[args.fault].target if args.fault else Device
    assert issubclass(broken, Device)
    return play(args, broken)


def main() -> int:
    """Run one target; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fota_conformance.zoo", description=__doc__)
    parser.add_argument("role", choices=("server", "device"))
    role = parser.parse_args(sys.argv[1:2]).role
    parser = argparse.ArgumentParser(prog=f"python -m fota_conformance.zoo {role}")
    if role == "server":
        from fota_conformance.zoo import server

        server.add_options(parser)
    else:
        from fota_conformance.zoo import device

        device.add_options(parser)
    parser.add_argument("--fault", metavar="NAME", help="be broken in this way")
    parser.add_argument("--list", action=ListFaults, nargs=0, const=role, help="name the faults, and leave")
    args = parser.parse_args(sys.argv[2:])
    if args.fault and args.fault not in faults_of(role):
        parser.error(f"no fault {args.fault!r} of a {role}; --list names them")
    return run_server(args) if role == "server" else run_device(args)


if __name__ == "__main__":
    sys.exit(main())
