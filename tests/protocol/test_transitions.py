"""The transition tables, and the page that is drawn from them."""

import enum
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from fota_protocol import device, server
from fota_protocol.errors import LocalProtocolError
from fota_protocol.transitions import follow, mermaid

ROOT: Final = Path(__file__).parents[2]

Table = Mapping[Any, Mapping[Any, Any]]

TABLES: Final[dict[str, tuple[Table, enum.Enum, enum.Enum, type[enum.Enum]]]] = {
    "server": (server.TRANSITIONS, server.ServerState.IDENTIFYING, server.ServerState.CLOSED, server.ServerInput),
    "device": (device.TRANSITIONS, device.DeviceState.IDLE, device.DeviceState.CLOSED, device.DeviceInput),
}
"""Each session's table, its first and its last state, and its inputs."""


def reachable(table: Table, start: enum.Enum) -> set[enum.Enum]:
    seen: set[enum.Enum] = set()
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            waiting += table[state].values()
    return seen


@pytest.mark.parametrize(("table", "first", "last", "inputs"), TABLES.values(), ids=TABLES)
def test_a_table_is_complete(table: Table, first: enum.Enum, last: enum.Enum, inputs: type[enum.Enum]) -> None:
    """Every state has a row and can be reached, every one leads to the end, and every input is used."""
    assert set(type(first)) == set(table)
    assert set(type(first)) == reachable(table, first)
    assert all(last in reachable(table, state) for state in table)
    assert table[last] == {}
    assert set(inputs) == {happened for row in table.values() for happened in row}


@pytest.mark.parametrize(("table", "first", "last", "inputs"), TABLES.values(), ids=TABLES)
def test_what_the_table_lacks_cannot_happen(
    table: Table, first: enum.Enum, last: enum.Enum, inputs: type[enum.Enum]
) -> None:
    """Every pair of state and input either leads where the table says or is the caller's mistake."""
    for state in table:
        for happened in inputs:
            if happened in table[state]:
                assert table[state][happened] is follow(table, state, happened)
            else:
                with pytest.raises(LocalProtocolError, match="cannot happen in state"):
                    follow(table, state, happened)


class Lamp(enum.Enum):
    OFF = "off"
    ON = "on"
    BROKEN = "broken"


class Event(enum.Enum):
    PRESS = "press"
    CLAP = "clap"
    FALL = "fall"


def test_a_diagram_has_an_arrow_for_each_way() -> None:
    """Inputs that lead the same way share one; the state without a way out is the end."""
    table = {
        Lamp.OFF: {Event.PRESS: Lamp.ON, Event.FALL: Lamp.BROKEN, Event.CLAP: Lamp.ON},
        Lamp.ON: {Event.PRESS: Lamp.OFF},
        Lamp.BROKEN: {},
    }

    assert mermaid(table, Lamp.OFF).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> OFF",
        "    OFF --> ON: press, clap",
        "    OFF --> BROKEN: fall",
        "    ON --> OFF: press",
        "    BROKEN --> [*]",
    ]


def test_the_page_on_sessions_is_up_to_date() -> None:
    """Its diagrams are those of the tables; `python docs/generate.py` draws them anew."""
    check = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, timeout=60
    )

    assert (check.returncode, check.stdout + check.stderr) == (0, "")


@pytest.mark.parametrize(("table", "first", "last", "inputs"), TABLES.values(), ids=TABLES)
def test_the_page_on_sessions_explains_every_state(
    table: Table, first: enum.Enum, last: enum.Enum, inputs: type[enum.Enum]
) -> None:
    """Each state has a paragraph that begins with its name."""
    page = (ROOT / "docs" / "sessions.md").read_text(encoding="utf-8")

    assert [state.name for state in table if f"\n**{state.name}**" not in page] == []
