"""What is done to one board: sectors erased, pieces written and read back, in an order that survives its end.

Theory of operation. The sector of the vector table is erased before anything else is changed, and the page with the
first vectors is written when everything else is in flash and was read back. Whatever ends it in between, a plug, a
power cut, Ctrl-C, leaves a board whose application is gone and whose bootloader is whole: it can be programmed again,
and does not run half an application. `state` says at any moment which of these it is.

What a request cannot do, its sector may: where flash holds neither what was to be written nor FF, the sector is erased
and written once more, once for each sector, and read back, also what had been read back before. A sector that cannot be
erased is fatal: the stock master reports that and programs on, into flash that is not blank. A board that falls silent
may be revived by its owner's means, a reset or its power, and goes on where it was.

`Programmer` knows no files and no server. `program` is for a whole image; what streams uses `erase` and `write`.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from .an2295_master import Master
from .errors import BoardError, BoardFault
from .plan import FIRST_LOOK, Layout, Piece, Plan, joined

RENEWALS: Final = 1
"""How often a sector is erased and written once more."""

_T = TypeVar("_T")


class BoardState(enum.Enum):
    """What a board is like now, as far as we changed it."""

    UNTOUCHED = "untouched"
    """Nothing was changed: its application, if it has one, is as it was."""
    INCOMPLETE = "incomplete"
    """Its application is gone, the new one not whole; it has no vectors. Its bootloader works: program it again."""
    PROGRAMMED = "programmed"
    """The new application is whole."""


class Programmer:
    """Erases and writes one board. Raises `BoardError`, and `LinkLost` from the line.

    `on_progress` is told of each request that was done, and how many bytes of flash it was for. `revive` is called when
    the board has fallen silent; it brings it back and connects, or returns False.
    """

    def __init__(
        self,
        master: Master,
        layout: Layout,
        *,
        verify: bool = True,
        on_progress: Callable[[str, int], None] = lambda what, size: None,
        revive: Callable[[], bool] = lambda: False,
    ) -> None:
        self.state = BoardState.UNTOUCHED
        self.doing = "nothing was begun"
        """What it is at, for whoever interrupts it."""
        self.erased: list[int] = []
        """Sectors that were erased, in order."""
        self.renewed: list[int] = []
        """Sectors that were erased and written once more."""
        self.verify = verify and master.ident.can_read
        """Whether what is written is read back."""
        self._master = master
        self._layout = layout
        self._on_progress = on_progress
        self._revive = revive
        self._written: dict[int, list[Piece]] = {}

    def program(self, plan: Plan) -> None:
        """Put a whole image onto the board."""
        for sector in plan.erases:
            self.erase(sector)
        for pieces in (plan.body, plan.vectors):
            for piece in pieces:
                self.write(piece)
            if self.verify:
                self.check(pieces)
        self.finished()

    def erase(self, sector: int) -> None:
        """Erase a sector; a failure is fatal."""
        self.doing = f"erasing the sector at {sector:#010x}"
        start = b"" if self.erased else self._start_of(sector)
        before, self.state = self.state, BoardState.INCOMPLETE
        try:
            self._do(lambda: self._master.erase(sector))
        except BoardError as error:
            if error.fault is BoardFault.OTHER_BOARD:
                raise
            if error.fault is BoardFault.REFUSED and start and start == self._start_of(sector):
                self.state = before  # it said no, and has done nothing
            raise BoardError(
                f"the sector at {sector:#010x} cannot be erased ({error}): it is protected or worn, or the line is bad",
                fault=BoardFault.ERASE,
                address=sector,
            ) from error
        self.erased.append(sector)
        self._on_progress("erasing", self._layout.ident.erase_size)

    def _start_of(self, sector: int) -> bytes:
        """What stands first in a sector, where vectors do; nothing where that cannot be known.

        A board that refuses to erase may have erased, all or half of it: the sector was found worn, or an answer before
        this one was garbled.
        """
        if not self._master.ident.can_read:
            return b""
        try:
            return self._do(lambda: self._master.read(sector, FIRST_LOOK))
        except BoardError:
            return b""

    def write(self, piece: Piece) -> None:
        """Write a piece into its erased sector."""
        self.doing = f"writing at {piece.address:#010x}"
        sector = self._layout.sector(piece.address)
        self._written.setdefault(sector, []).append(piece)
        if not piece.is_blank:
            try:
                self._put(piece)
            except BoardError as error:
                if error.fault not in (BoardFault.REFUSED, BoardFault.WRITE):
                    raise
                self._renew(sector, error, BoardFault.WRITE)
        self._on_progress("writing", len(piece.data))

    def check(self, pieces: Sequence[Piece]) -> None:
        """Read pieces, which ascend, back and compare."""
        for piece in joined(pieces):
            self.doing = f"reading back at {piece.address:#010x}"
            self._check(piece)
            self._on_progress("verifying", len(piece.data))

    def finished(self) -> None:
        """The image is whole."""
        self.state = BoardState.PROGRAMMED
        self.doing = "everything is written"

    def _check(self, piece: Piece) -> None:
        found = self._do(lambda: self._master.read(piece.address, len(piece.data)))
        if found == piece.data:
            return
        at = next(i for i, (new, old) in enumerate(zip(found, piece.data, strict=True)) if new != old)
        address = piece.address + at
        error = BoardError(
            f"{address:#010x} holds {found[at]:02X}, expected {piece.data[at]:02X}",
            fault=BoardFault.VERIFY,
            address=address,
        )
        sector = self._layout.sector(address)
        self._renew(sector, error, BoardFault.VERIFY)
        self._check(piece)  # it may lie in two sectors

    def _renew(self, sector: int, error: BoardError, fault: BoardFault) -> None:
        """Erase a sector, write once more what was written to it, and read that back, the first vectors last."""
        if self.renewed.count(sector) >= RENEWALS:
            raise BoardError(
                f"the sector at {sector:#010x} does not take its content, erased once more: {error}",
                fault=fault,
                address=error.address,
            ) from error
        self.renewed.append(sector)
        self.erase(sector)
        low, high = self._layout.vector_page
        vectors = [piece for piece in self._written[sector] if low <= piece.address < high]
        body = [piece for piece in self._written[sector] if not low <= piece.address < high]
        for pieces in (body, vectors):
            for piece in pieces:
                if not piece.is_blank:
                    self._put_again(sector, piece, fault)
            if self.verify:
                for whole in joined(sorted(pieces, key=lambda one: one.address)):
                    self._check(whole)

    def _put_again(self, sector: int, piece: Piece, fault: BoardFault) -> None:
        try:
            self._put(piece)
        except BoardError as error:
            if error.fault in (BoardFault.REFUSED, BoardFault.WRITE):
                self._renew(sector, error, fault)  # which has been done, and so raises
            raise

    def _put(self, piece: Piece) -> None:
        self._do(lambda: self._master.write(piece.address, piece.data))

    def _do(self, action: Callable[[], _T]) -> _T:
        """Do it; if the board falls silent, revive it and do it again."""
        while True:
            try:
                return action()
            except BoardError as error:
                if error.fault is not BoardFault.SILENT or not self._revive():
                    raise
