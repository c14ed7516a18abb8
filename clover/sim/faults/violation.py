"""A broken promise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise, broken once.

    Attributes:
        promise: `P1` to `P9`.
        subject: Id of the request, or name of the process, stream or node.
        what: What happened.
    """

    promise: str
    subject: str
    what: str

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.promise} broken: {self.subject} {self.what}"
