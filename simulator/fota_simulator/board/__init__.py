"""A virtual board behind a serial line: what a bench sees of a K60, down to its manners.

* `firmware`: what a bootloader is to a board: a session that starts at a reset and says how it is left.
* `an2295`: the stock serial bootloader of the TWR-K60 boards, byte for byte; `memory` is what it can reach.
* `fota_device`: a bootloader that asks a server for its update, over the UART.
* `board`: power, reset, pin, and which of bootloader and application runs.
* `serial_line`: the line: its rate, its faults, its plug.
* `wired`: a board on such a line, in anybody's time.
* `terminal`, `control`, `runner`: the pseudo-terminal, the orders of whoever stands beside the board, and the loop.

Everything up to `wired` does no I/O and is told the time; only the last three know of files and clocks.
"""
