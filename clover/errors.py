"""The error tree, split by what the caller can do about it; imports nothing, so that every layer may use it."""

from __future__ import annotations


class CloverError(Exception):
    """Something went wrong that has a name.

    Attributes:
        exit_code: What the command line exits with (docs/operations/README.md lists them).
        hint: The next step for the user, one sentence; empty if there is none.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(CloverError):
    """A value that the user gave (flag, file, table, trace) cannot be used; nothing was started or changed."""

    exit_code = 3


class TraceError(ConfigurationError):
    """A trace has a gap, a missing value or a value out of range; the message names the row."""


class BusError(CloverError):
    """The server said no."""

    exit_code = 4


class BusUnavailableError(BusError):
    """The server cannot be reached at present; trying again later is right."""


class BusDeniedError(BusError):
    """The server's access rules do not allow this; another user is needed."""


class MessageRejectedError(BusError):
    """A message does not follow the wire contract; trying again is useless."""


class NotReadyError(CloverError):
    """Something did not become ready in the time it was given."""

    exit_code = 5


class NodeError(CloverError):
    """A GPU or a worker process failed."""

    exit_code = 6


class InvalidTransitionError(CloverError):
    """A state machine was given an event that its state does not allow: a bug, told with its story."""
