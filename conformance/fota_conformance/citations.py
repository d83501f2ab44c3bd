"""Which case judges which requirement: read from the cases' marks, without running any.

A case cites ids of the catalogue by the mark `fota_requirement`. Unknown ids and requirements that nobody judges are
found here, for `fota conformance list`, the spec and the tests.
"""

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from types import FunctionType

from fota_conformance import cases
from fota_conformance.catalogue import Catalogue, Keyword, Requirement


@dataclass(frozen=True, slots=True)
class Citation:
    """One case, as it stands in its file."""

    case: str
    """File and function, without variants."""
    claim: str
    """Its docstring's first line."""
    requirements: tuple[str, ...]


@functools.cache
def citations() -> tuple[Citation, ...]:
    """All cases of the kit, in the order of their files and lines."""
    found = []
    for module in sorted(pkgutil.iter_modules(cases.__path__), key=lambda one: one.name):
        if not module.name.startswith("test_"):
            continue
        content = vars(importlib.import_module(f"{cases.__name__}.{module.name}"))
        for name, function in content.items():
            if name.startswith("test_") and isinstance(function, FunctionType):
                marks = getattr(function, "pytestmark", [])
                ids = tuple(text for mark in marks if mark.name == "fota_requirement" for text in mark.args)
                claim = (function.__doc__ or name).strip().splitlines()[0]
                found.append(Citation(f"{module.name}.py::{name}", claim, ids))
    return tuple(found)


def cases_of(requirement: Requirement) -> tuple[Citation, ...]:
    """The cases that judge a requirement."""
    names = {requirement.id, *requirement.aliases}
    return tuple(one for one in citations() if names & set(one.requirements))


def uncovered(catalogue: Catalogue) -> tuple[Requirement, ...]:
    """Requirements that bind or advise, and that no case judges."""
    cited = {name for one in citations() for name in one.requirements}
    return tuple(
        one for one in catalogue.requirements if one.keyword is not Keyword.MAY and not cited & {one.id, *one.aliases}
    )
