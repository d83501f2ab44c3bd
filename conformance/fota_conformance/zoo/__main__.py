"""`python -m fota_conformance.zoo server …` and `… device …`; `--list` names the faults."""

import argparse
import sys
from typing import cast

from fota_conformance.zoo import device, server
from fota_conformance.zoo.faults import DEVICE_FAULTS, SERVER_FAULTS, Fault


class ListFaults(argparse.Action):
    """Print the faults of a role, and leave."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        faults = cast("tuple[Fault, ...]", self.const)
        for fault in faults:
            print(f"{fault.name:<26} {fault.title} ({fault.breaks})")
        parser.exit()


def main() -> int:
    """Run one target; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fota_conformance.zoo", description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    for role, faults, add_options in (
        ("server", SERVER_FAULTS, server.add_options),
        ("device", DEVICE_FAULTS, device.add_options),
    ):
        options = roles.add_parser(role, help=f"a {role}, good unless a fault is asked for")
        add_options(options)
        options.add_argument("--fault", choices=[fault.name for fault in faults], metavar="NAME")
        options.add_argument("--list", action=ListFaults, nargs=0, const=faults, help="name the faults, and leave")
    args = parser.parse_args()
    broken = next((fault.target for fault in SERVER_FAULTS + DEVICE_FAULTS if fault.name == args.fault), None)
    if args.role == "device":
        return device.play(args, cast("type[device.Device]", broken or device.Device))
    if broken is not None and issubclass(broken, server.Server):
        return server.serve(args, server.Session, broken)
    return server.serve(args, cast("type[server.Session]", broken or server.Session), server.Server)


if __name__ == "__main__":
    sys.exit(main())
