"""Options that take one of a few words."""

import argparse
import enum
from collections.abc import Callable
from typing import TypeVar

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
