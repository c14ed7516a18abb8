"""What a return code of NVIDIA's driver means to the caller, in the words of `mig.errors`. Pure."""

from __future__ import annotations

from mig.errors import (
    DriverError,
    DriverTooOldError,
    GpuLostError,
    MigError,
    MigNotSupportedError,
    NoDriverError,
    PartitionRejectedError,
    PermissionDeniedError,
    Privilege,
    ResetRequiredError,
)
from mig.nvml_values import Code, NvmlFailure

_NO_DRIVER = {
    Code.UNINITIALIZED: "the driver's library is not initialised",
    Code.DRIVER_NOT_LOADED: "the NVIDIA kernel module is not loaded",
    Code.LIBRARY_NOT_FOUND: "there is no NVIDIA driver (libnvidia-ml.so.1 is not installed)",
    Code.LIB_RM_VERSION_MISMATCH: "the driver's library and the kernel module are of different versions",
}

_PRIVILEGE_HINTS: dict[Privilege, str] = {
    "root": "The mode takes root; `clover mig helper` can do it for others.",
    "mig/config": (
        "Give this user read access to the capability mig/config "
        "(/proc/driver/nvidia/capabilities/mig/config and its /dev/nvidia-caps node), or use `clover mig helper`."
    ),
}


def translate(failure: NvmlFailure, doing: str, *, privilege: Privilege = "mig/config") -> MigError:
    """Name a failure.

    Args:
        failure: What the library returned.
        doing: What was being done to what, such as "GPU 0: reading its instances".
        privilege: What that takes, in case it is missing.
    """
    message = f"{doing}: {failure}: expected success"
    code = failure.code
    if code in _NO_DRIVER:
        return NoDriverError(f"{doing}: {_NO_DRIVER[code]}: expected a driver", code=code, hint=_no_driver_hint(code))
    if code == Code.NO_PERMISSION:
        return PermissionDeniedError(
            f"{doing}: the driver refuses this user: expected the privilege {privilege}",
            privilege=privilege,
            hint=_PRIVILEGE_HINTS[privilege],
        )
    kind, hint = _KINDS.get(code, (None, ""))
    return DriverError(message, code=code) if kind is None else _make(kind, message, code, hint)


def _make(kind: type[MigError], message: str, code: int, hint: str) -> MigError:
    return kind(message, code=code, hint=hint) if issubclass(kind, DriverError) else kind(message, hint=hint)


_KINDS: dict[int, tuple[type[MigError], str]] = {
    Code.NOT_SUPPORTED: (MigNotSupportedError, "The board, or this virtual machine, cannot do that."),
    Code.RESET_REQUIRED: (ResetRequiredError, "End every process that uses the GPU, then reset it or reboot."),
    Code.INVALID_ARGUMENT: (PartitionRejectedError, "Read the instances again and plan the change from them."),
    Code.FUNCTION_NOT_FOUND: (DriverTooOldError, "Install a newer driver."),
    Code.ARGUMENT_VERSION_MISMATCH: (DriverTooOldError, "Install a newer driver."),
    Code.GPU_IS_LOST: (GpuLostError, "Only a reset of the GPU or a reboot brings it back; see the kernel log."),
    Code.GPU_NOT_FOUND: (GpuLostError, "See the kernel log, and `clover mig status` for the GPUs there are."),
}


def _no_driver_hint(code: int) -> str:
    if code == Code.LIB_RM_VERSION_MISMATCH:
        return "Reboot after an update of the driver."
    return "Install the NVIDIA driver, or use --simulate."
