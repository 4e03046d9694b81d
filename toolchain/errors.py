"""What can go wrong, and the exit code that says so.

ToolchainError                 1   base of everything raised on purpose
  StepError                    1   a step failed although its input was good
  UsageError                   2   wrong usage or bad input: recipe, name, data, incompatible parts
  GateNotMet                   3   the work is done and kept, but a promise was not met
  IntegrityError               4   outputs differ from their parent, or a file from its digest
  ResourceError                5   it would not fit in memory or on disk
  Interrupted                130   stopped by the user; the state is saved

A message says where, what was found and what was expected; the hint says what to do next.
"""

__all__ = [
    "GateNotMet",
    "IntegrityError",
    "Interrupted",
    "ResourceError",
    "StepError",
    "ToolchainError",
    "UsageError",
]


class ToolchainError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """One sentence, then what to do about it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class StepError(ToolchainError):
    """A step failed although its input was good."""


class UsageError(ToolchainError):
    """Wrong usage or bad input; nothing was started."""

    exit_code = 2


class GateNotMet(ToolchainError):
    """The work is done and its artefacts are kept, but a gate was not met."""

    exit_code = 3


class IntegrityError(ToolchainError):
    """Outputs differ from their parent's, or a file from its recorded digest."""

    exit_code = 4


class ResourceError(ToolchainError):
    """It would not fit: memory or disk."""

    exit_code = 5


class Interrupted(ToolchainError):
    """Stopped by the user; what was finished is kept."""

    exit_code = 130
