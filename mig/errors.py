"""The errors of `mig`, split by what the caller can do about them. `mig` is a leaf, so they are its own tree.

Every message names the field, the value that was given and what was expected; `hint` is the next step.
"""

from __future__ import annotations


class MigError(Exception):
    """Something about a GPU or its partition went wrong that has a name.

    Attributes:
        hint: The next step for the user, one sentence; empty if there is none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PartitionRejectedError(MigError):
    """A profile, placement or partition cannot exist on this board as it is; asking again is useless.

    Covers what a driver calls "insufficient resources" (slices taken, profile used up), "invalid argument"
    (a start that the profile does not have) and text that names no partition.
    """


class DeviceBusyError(MigError):
    """A process still uses the GPU instance, so it stays; end the process, or ask again a little later."""


class UnknownGpuModelError(MigError):
    """There is no table for a board of this name."""
