"""Options that take one of a few words."""

import argparse
import enum
from collections.abc import Callable
from typing import Final, TypeVar

ALL: Final = "all"
"""The word for every choice."""

_Choice = TypeVar("_Choice", bound=enum.Enum)


def one_of(kind: type[_Choice]) -> Callable[[str], _Choice]:
    """A converter for argparse whose complaint names the choices."""

    def convert(text: str) -> _Choice:
        try:
            return kind(text)
        except ValueError:
            choices = ", ".join(str(choice.value) for choice in kind)
            raise argparse.ArgumentTypeError(f"{text!r}, expected one of {choices}") from None

    return convert


def one_or_all(kind: type[_Choice]) -> Callable[[str], list[_Choice]]:
    """The same, with `all` for each of them in turn."""
    one = one_of(kind)

    def convert(text: str) -> list[_Choice]:
        if text == ALL:
            return list(kind)
        try:
            return [one(text)]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, {ALL}") from None

    return convert
