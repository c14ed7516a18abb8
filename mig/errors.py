"""The errors of `mig`, split by what the caller can do about them. `mig` is a leaf, so they are its own tree.

Every message names the field, the value that was given and what was expected; `hint` is the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from mig.device import Holder

Shortage: TypeAlias = Literal["already_there", "taken", "fragmented", "used_up", "unexplained"]
"""Why a driver has "insufficient resources" for an instance at a place.

"already_there": the very same is there; "taken": something else lies there, but the profile fits elsewhere or
the board is too full for it anywhere; "fragmented": enough slices are free, yet at no start of the profile;
"used_up": the board holds as many of the profile as it can; "unexplained": by the table it fits.
"""

Privilege: TypeAlias = Literal["root", "mig/config"]
"""What a call needs: root, or read access to the capability file mig/config (which root has too)."""


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


class InsufficientResourcesError(PartitionRejectedError):
    """There is no room for an instance beside those that are there.

    Attributes:
        shortage: Which of the cases that drivers do not tell apart.
    """

    def __init__(self, message: str, *, shortage: Shortage, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.shortage: Shortage = shortage


class DeviceBusyError(MigError):
    """A process still uses the GPU (instance), so it stays as it is; end the process, or ask again a little later.

    Attributes:
        holders: The processes that are known to use it; empty if none could be found out.
    """

    def __init__(self, message: str, *, holders: Sequence[Holder] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holders = tuple(holders)


class PermissionDeniedError(MigError):
    """The driver refuses this process.

    Attributes:
        privilege: What is missing.
    """

    def __init__(self, message: str, *, privilege: Privilege, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.privilege: Privilege = privilege


class MigNotSupportedError(MigError):
    """The board, or the virtual machine it was given to, cannot be partitioned."""


class MigDisabledError(MigError):
    """The GPU is not in MIG mode, so it has no instances."""


class ResetRequiredError(MigError):
    """A change of mode waits for a reset of the GPU, or would reset it; that is never done silently."""


class DriverError(MigError):
    """The driver failed in a way that says nothing about partitions.

    Attributes:
        code: The driver's return code; None if there was none.
    """

    def __init__(self, message: str, *, code: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class NoDriverError(DriverError):
    """There is no NVIDIA driver here: its library is missing or the kernel module is not loaded."""


class DriverTooOldError(DriverError):
    """The driver lacks a function that is needed here."""


class DriverTimeoutError(DriverError):
    """A call of the driver did not return in time; it goes on, and nothing else is asked of the driver meanwhile."""


class GpuLostError(DriverError):
    """The GPU has fallen off the bus; only a reset or a reboot of the host brings it back."""


class GpuLockedError(MigError):
    """Another process manages this GPU."""


class ForeignInstanceError(MigError):
    """An instance that was not created here would have to go, and nobody allowed that by its id.

    Attributes:
        instance_ids: The instances concerned.
    """

    def __init__(self, message: str, *, instance_ids: Sequence[int], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.instance_ids = tuple(instance_ids)


class RecordError(MigError):
    """What was created here is recorded in a file that cannot be used."""


class UnknownGpuModelError(MigError):
    """There is no table for a board of this name."""
