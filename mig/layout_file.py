"""A file of named layouts for the GPUs of a fleet, as users of mig-parted know it, but in TOML. Pure.

    version = 1

    [[layouts.serving]]             # rows of one layout; each GPU must match at most one
    devices = "all"                 # or numbers: [0, 1]
    nodes = ["gpu-a", "gpu-b"]      # hosts that the row is for; left out: all
    boards = ["a100-40gb"]          # boards that the row is for; left out: all
    partition = "4g+2g+1g"          # as on the command line; or a table of counts:
    # mig-devices = { "1g.5gb" = 2, "2g" = 1 }
    # mig-enabled = false           # MIG mode off; then neither of the two

GPUs that match no row are left alone. Unknown keys and versions are errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from mig.errors import PartitionRejectedError
from mig.goal import ALL, Goal, InvalidGoalError, check_present, parse_partition
from mig.partition import layouts_of

if TYPE_CHECKING:
    from mig.change import Wanted
    from mig.profiles import GpuModel


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What some GPUs shall be; see the module."""

    devices: Literal["all"] | tuple[int, ...]
    nodes: tuple[str, ...] | None = None
    boards: tuple[str, ...] | None = None
    mig_enabled: bool = True
    partition: str | int | None = None
    mig_devices: dict[str, int] | None = None


class LayoutFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file: rows by the name of their layout."""

    version: Literal[1]
    layouts: dict[str, tuple[Row, ...]]


def read_layout_file(path: Path) -> LayoutFile:
    """Read a file.

    Raises:
        InvalidGoalError: It cannot be read, is not TOML, or not of this form; the message names the field.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidGoalError(f"{path}: {reason}: expected a TOML file of layouts") from error
    try:
        parsed = msgspec.convert(values, type=LayoutFile)
    except msgspec.ValidationError as error:
        raise InvalidGoalError(f"{path}: {error}", hint="docs/operations/mig.md describes the file.") from error
    for name, rows in parsed.layouts.items():
        for number, row in enumerate(rows, start=1):
            problem = _problem(row)
            if problem:
                raise InvalidGoalError(f"{path}: row {number} of layout {name!r}: {problem}")
    return parsed


def goals_of_layout(file: LayoutFile, name: str, node: str, models: Mapping[int, GpuModel]) -> dict[int, Goal]:
    """Say what each GPU of a host shall be; those that no row matches are left out.

    Args:
        file: The file.
        name: Name of the layout.
        node: Name of the host.
        models: Board of each GPU of the host by its number.

    Raises:
        InvalidGoalError: There is no such layout, no row is for this host, a GPU is not there, or two rows match one.
        PartitionRejectedError: A board has no such partition.
    """
    rows = file.layouts.get(name)
    if rows is None:
        raise InvalidGoalError(f"layout {name!r}: expected one of {', '.join(sorted(file.layouts)) or 'none in file'}")
    goals: dict[int, Goal] = {}
    for number, row in enumerate(rows, start=1):
        for index in _matches(row, node, models):
            if index in goals:
                raise InvalidGoalError(f"layout {name!r}: row {number} matches GPU {index}, which an earlier row does")
            try:
                goals[index] = _goal(row, models[index])
            except PartitionRejectedError as error:
                message = f"layout {name!r}: row {number}, GPU {index}: {error}"
                raise PartitionRejectedError(message, hint=error.hint) from error
    if not goals:
        raise InvalidGoalError(
            f"layout {name!r}: no row matches a GPU of node {node!r}", hint="`--node NAME` says which node this is."
        )
    return dict(sorted(goals.items()))


def _problem(row: Row) -> str:
    given = [row.partition is not None, row.mig_devices is not None]
    if row.mig_enabled and sum(given) != 1:
        return "expected either partition or mig-devices"
    if not row.mig_enabled and any(given):
        return "mig-enabled is false: expected neither partition nor mig-devices"
    if row.devices != ALL and (len(set(row.devices)) != len(row.devices) or any(each < 0 for each in row.devices)):
        return f"devices {list(row.devices)}: expected each number once, from 0"
    for profile, count in (row.mig_devices or {}).items():
        if not 1 <= count <= 16:
            return f"mig-devices {profile!r} = {count}: expected 1 to 16"
    return ""


def _matches(row: Row, node: str, models: Mapping[int, GpuModel]) -> Sequence[int]:
    if row.nodes is not None and node not in row.nodes:
        return ()
    if row.devices == ALL:
        chosen = sorted(models)
    else:
        check_present(row.devices, models)
        chosen = sorted(row.devices)
    return [index for index in chosen if row.boards is None or models[index].name in row.boards]


def _goal(row: Row, model: GpuModel) -> Goal:
    if not row.mig_enabled:
        return Goal(enabled=False)
    wanted: Wanted
    if row.mig_devices is None:
        wanted = parse_partition(model, str(row.partition))
    else:
        sizes = [profile for profile, count in row.mig_devices.items() for _ in range(count)]
        wanted = layouts_of(model, sizes)[0].multiset
    return Goal(wanted=wanted)
