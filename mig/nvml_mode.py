"""Reads and changes the MIG mode of one GPU through its driver. Blocks; runs in the owner thread.

The call that changes the mode succeeds even if nothing came of it: what came of it is in the status that it returns and
in the mode as read back, and both are checked here.
"""

from __future__ import annotations

from contextlib import suppress

from mig.device import Holder, MigMode
from mig.errors import DeviceBusyError, PermissionDeniedError, ResetRequiredError
from mig.holders import holders, pids_with_open
from mig.nvml_discovery import discover
from mig.nvml_errors import translate
from mig.nvml_instances import Board
from mig.nvml_values import Code, NvmlFailure


def read_mode(board: Board) -> MigMode:
    """Read whether a GPU is in MIG mode."""
    try:
        current, pending = board.nvml.mode(board.gpu)
    except NvmlFailure as failure:
        raise translate(failure, f"GPU {board.index}: reading its mode") from failure
    return MigMode(current=current, pending=pending)


def change_mode(board: Board, uuid: str, *, enabled: bool, allow_reset: bool) -> MigMode:
    """Change the mode of a GPU, if it is another, and read its table again; see the port for the errors."""
    wanted = MigMode(current=enabled, pending=enabled)
    before = read_mode(board)
    if before == wanted:
        return before
    try:
        _check_mode_change(board, before, enabled=enabled, allow_reset=allow_reset)
        status = board.nvml.set_mode(board.gpu, enabled=enabled)
        # The number of the GPU and its handle may be others after an activation; its name is not.
        board.gpu = board.nvml.gpu_by_uuid(uuid)
    except NvmlFailure as failure:
        raise translate(failure, f"GPU {board.index}: changing its mode", privilege="root") from failure
    after = read_mode(board)
    _check_activation(board, status, after, wanted)
    board.table = discover(board.nvml, board.gpu, board.index)
    return after


def _check_activation(board: Board, status: int, after: MigMode, wanted: MigMode) -> None:
    if status == Code.IN_USE:
        found = _gpu_holders(board)
        raise DeviceBusyError(
            f"GPU {board.index}: MIG mode is {after}: the GPU is in use by "
            f"{'process ' + ', '.join(map(str, found)) if found else 'somebody'}: expected nobody",
            holders=found,
            hint="End every process that uses the GPU, monitoring too, then switch the mode again.",
        )
    if status != 0 or after != wanted:
        raise ResetRequiredError(
            f"GPU {board.index}: MIG mode is {after}, the status of its activation is {status}: expected it in force",
            hint="End every process that uses the GPU, then reset it or reboot (in a virtual machine: reboot that).",
        )


def _check_mode_change(board: Board, before: MigMode, *, enabled: bool, allow_reset: bool) -> None:
    left = _instances_left(board) if before.current and not enabled else 0
    if left:
        raise DeviceBusyError(
            f"GPU {board.index}: it holds {left} instances: expected none when its mode changes",
            hint="Destroy them first.",
        )
    if before.current != enabled and before.pending == enabled and not allow_reset:
        before.require_enabled(board.index)
    # Taking back a change that only waits for a reset changes nothing that runs.
    if before.current != enabled and not allow_reset and board.nvml.resets_for_mode(board.gpu):
        raise ResetRequiredError(
            f"GPU {board.index}: a change of MIG mode resets this board: expected leave to do that",
            hint="End what runs on it, then allow the reset.",
        )


def _instances_left(board: Board) -> int:
    try:
        return len(board.instances())
    except PermissionDeniedError:
        # Who may not read instances may not change the mode either; the driver says so next.
        return len(board.devices())


def _gpu_holders(board: Board) -> tuple[Holder, ...]:
    pids: frozenset[int] = frozenset()
    with suppress(NvmlFailure):
        pids = frozenset(board.nvml.processes(board.gpu))
    with suppress(NvmlFailure, OSError):
        pids |= pids_with_open({f"/dev/nvidia{board.nvml.minor(board.gpu)}"})
    return holders(pids)
