"""The options of a serial port, which relay and programmer share."""

import argparse


def add_port_options(parser: argparse.ArgumentParser, *, default_baud: int) -> None:
    """Which port, and how fast."""
    parser.add_argument(
        "--serial", required=True, metavar="PORT", help="serial port of the board: anything that pyserial can open"
    )
    parser.add_argument(
        "--baud", type=int, default=default_baud, metavar="N", help=f"bits a second (default: {default_baud})"
    )
