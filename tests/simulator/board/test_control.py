"""Orders to a board: their words, and the pipe that they come through."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fota_simulator.board.control import LINE_LIMIT, ControlPipe, Order, Unplug, parse_order
from fota_simulator.board.errors import BoardError


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[ControlPipe]:
    """A pipe that is removed in the end."""
    made = ControlPipe(tmp_path / "control")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("reset", Order.RESET),
        ("  pin   held ", Order.HOLD),
        ("unplug", Unplug(None)),
        ("unplug 2.5", Unplug(2.5)),
        ("unplug 0", Unplug(0.0)),
        *((order.value, order) for order in Order),
    ],
)
def test_order_is_its_words(line: str, order: Order | Unplug) -> None:
    """However they are spaced."""
    assert order == parse_order(line)


@pytest.mark.parametrize("line", ["", "explode", "unplug -1", "unplug 99999", "unplug soon", "RESET", "pin"])
def test_what_is_no_order_is_refused_with_the_list(line: str) -> None:
    """The complaint names every order."""
    with pytest.raises(ValueError, match="pin released, power off"):
        parse_order(line)


def test_shell_can_give_orders(pipe: ControlPipe) -> None:
    """`echo` does it, again and again; lines of one write come together, a complaint for what is none."""
    for text in ("pin released", "reset\nnonsense\n\nunplug 1"):
        subprocess.run(["sh", "-c", f'echo "{text}" > "{pipe.path}"'], check=True, timeout=30)

    orders = list(pipe.orders())

    assert [Order.RELEASE, Order.RESET, Unplug(1.0)] == [order for order in orders if not isinstance(order, ValueError)]
    assert isinstance(orders[2], ValueError)
    assert [] == list(pipe.orders())


def test_endless_line_is_a_complaint_and_is_not_kept(pipe: ControlPipe) -> None:
    """What comes behind it is heard again."""
    with pipe.path.open("wb", buffering=0) as writer:
        writer.write(b"x" * (LINE_LIMIT + 1))
        complaints = list(pipe.orders())
        writer.write(b"reset\n")

    assert [ValueError] == [type(complaint) for complaint in complaints]
    assert [Order.RESET] == list(pipe.orders())


def test_pipe_is_removed_at_the_end(tmp_path: Path) -> None:
    """And is its owner's alone while it is there."""
    pipe = ControlPipe(tmp_path / "control")
    mode = stat.S_IMODE((tmp_path / "control").stat().st_mode)

    pipe.close()

    assert 0o600 == mode
    assert not (tmp_path / "control").exists()


def test_pipe_of_a_killed_board_is_replaced(tmp_path: Path) -> None:
    """Nobody reads it any more."""
    os.mkfifo(tmp_path / "control")

    pipe = ControlPipe(tmp_path / "control")

    pipe.close()


def test_what_is_there_already_is_kept(tmp_path: Path, pipe: ControlPipe) -> None:
    """A file, or the pipe of a board that lives."""
    (tmp_path / "file").write_text("mine")

    for path in (tmp_path / "file", pipe.path, tmp_path / "no" / "folder"):
        with pytest.raises(BoardError, match="expected a free name"):
            ControlPipe(path)

    assert "mine" == (tmp_path / "file").read_text()
    assert pipe.path.is_fifo()
