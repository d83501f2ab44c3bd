"""How property tests run, wherever they run.

Shared machines make single examples slow at random, so no example has a deadline; every failure prints the blob that
brings it back (`@reproduce_failure`). The seed is not fixed: each run looks at other examples.

`tox -e minimal` runs without hypothesis, and with its own folder as the root of conftests.
"""

from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True, max_examples=60)
settings.load_profile("ci")
