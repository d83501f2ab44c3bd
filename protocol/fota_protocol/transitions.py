"""Transition tables: what a session may do in each state, as data.

A session moves only by looking its input up in its table, so the table is the state machine, and the diagrams in
`docs/sessions.md` are drawn from it. An input that the table does not have in that state is a bug of the caller.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

from .errors import LocalProtocolError

State = TypeVar("State", bound=enum.Enum)
Input = TypeVar("Input", bound=enum.Enum)


def follow(table: Mapping[State, Mapping[Input, State]], state: State, happened: Input) -> State:
    """The state behind `state` when `happened`; raises `LocalProtocolError` when that cannot happen there."""
    try:
        return table[state][happened]
    except KeyError:
        raise LocalProtocolError(f"{happened.value!r} cannot happen in state {state.value!r}") from None


def mermaid(table: Mapping[State, Mapping[Input, State]], initial: State) -> str:
    """The table as a Mermaid state diagram; inputs that lead the same way share an arrow."""
    lines = ["stateDiagram-v2", f"    [*] --> {initial.name}"]
    for state, row in table.items():
        for target in dict.fromkeys(row.values()):
            inputs = ", ".join(happened.value for happened, to in row.items() if to is target)
            lines.append(f"    {state.name} --> {target.name}: {inputs}")
        if not row:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join(lines) + "\n"
