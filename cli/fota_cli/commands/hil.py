"""Real boards on a bench: carry their bytes to a server, or program a stock AN2295 bootloader from one.

  fota hil relay --serial /dev/ttyUSB0 --server 127.0.0.1:4000
  fota hil program --serial /dev/ttyUSB0 --image app.s19

A serial port is whatever pyserial can open: /dev/tty…, COMn, hwgrep://, socket://, rfc2217://, spy://, or a pseudo
terminal, for instance one of 'fota board'. 'fota hil ACTION --help' explains each.
"""

import argparse

from ..hil import program, relay


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    relay.configure(actions)
    program.configure(actions)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    code: int = args.action(args)
    return code
