"""What a command raises to end with a message instead of a traceback.

* CommandError       base: carries the exit code
    * UsageError     bad input or usage (2)
    * HarnessError   something could not be tested or run (3)
"""

from typing import ClassVar


class CommandError(Exception):
    """Ends the command with its message on standard error; `exit_code` is the process's."""

    exit_code: ClassVar[int]


class UsageError(CommandError):
    """The command line, a file or a setting is not as it must be; the message says what was expected."""

    exit_code = 2


class HarnessError(CommandError):
    """The command could not do what it was asked, through no fault of the thing under test."""

    exit_code = 3
