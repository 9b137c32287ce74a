"""The errors a user can cause, or can act on.

`UsageError` is found before any work starts (exit code 2); `BuildError` is a build, a corpus or a machine
that is not what it should be (exit code 1). Both carry one line: what, where, what is allowed, what to do next.
"""


class CdgenError(Exception):
    """Anything that is reported as one line instead of a traceback."""

    exit_code = 1


class UsageError(CdgenError, ValueError):
    """A wrong recipe, option or path: what can be known before work starts."""

    exit_code = 2


class BuildError(CdgenError, RuntimeError):
    """Work that could not be finished, or a corpus that is damaged or incomplete."""


class StoppedError(CdgenError):
    """The user's Ctrl-C."""

    exit_code = 130


class DeterminismError(BuildError):
    """One job gave different bytes twice: what the whole design excludes. Never passed over."""
