"""What people ask of GPUs, as text: `3g+4g`, `0=3g+4g 1=7g`, `all=7x1g`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mig.change import Wanted
from mig.errors import MigError, PartitionRejectedError
from mig.partition import Partition, parse_multiset
from mig.placement import PlacedProfile, place

if TYPE_CHECKING:
    from mig.profiles import GpuModel

ALL = "all"
"""Selects every GPU of the host."""

_NOTHING = {"none", "empty"}
_SEPARATOR = re.compile(r"\s*,\s*|\s*\+\s*(?=\d)|\s+")
_RANGE = re.compile(r"(?P<first>\d{1,4})(?:-(?P<last>\d{1,4}))?")


class InvalidGoalError(MigError):
    """What was asked for cannot be read, or asks for GPUs that are not there; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What one GPU shall be.

    Attributes:
        enabled: Whether it shall be in MIG mode; if not, nothing is wanted on it.
        wanted: What it shall be cut into, all of it.
    """

    enabled: bool = True
    wanted: Wanted = ()


def parse_partition(model: GpuModel, text: str) -> Wanted:
    """Read a partition of a board.

    Beside what `mig.partition.parse_multiset` reads: "none" for no instance at all, and an exact layout with the start
    of each instance in memory slices ("4g@0+3g@4").

    Raises:
        PartitionRejectedError: The text names no partition of this board.
    """
    if text.strip().lower() in _NOTHING:
        return ()
    return _exact(model, text) if "@" in text else parse_multiset(model, text)


def parse_goals(texts: Sequence[str], models: Mapping[int, GpuModel]) -> dict[int, Goal]:
    """Read what each GPU shall be cut into.

    A text is `GPUS=PARTITION`, where GPUS are "all", numbers and ranges ("0", "0,2", "0-3"), or a partition alone for
    all. Numbers win over "all". GPUs that are not named are left out.

    Args:
        texts: At least one.
        models: Board of each GPU by its number.

    Raises:
        InvalidGoalError: A text cannot be read, or a GPU is not there or named twice.
        PartitionRejectedError: A board has no such partition.
    """
    everywhere: str | None = None
    named: dict[int, str] = {}
    for text in texts:
        selector, equals, partition = text.partition("=")
        if not equals or selector.strip().lower() == ALL:
            if everywhere is not None:
                raise InvalidGoalError(
                    f"partition {text!r}: all GPUs have {everywhere!r} already",
                    hint=f"Join the sizes of one partition, such as {everywhere}+{text}."
                    if not equals
                    else "Name each GPU once.",
                )
            everywhere = partition if equals else text
            continue
        for index in parse_gpus(selector, models):
            if index in named:
                raise InvalidGoalError(f"GPU {index} is named twice: expected one partition for each GPU")
            named[index] = partition
    if everywhere is not None:
        named = dict.fromkeys(models, everywhere) | named
    if not named:
        raise InvalidGoalError("no partition is given: expected such as 3g+4g, or 0=3g+4g 1=7g")
    return {index: Goal(wanted=_of_gpu(index, models[index], named[index])) for index in sorted(named)}


def parse_gpus(text: str, present: Collection[int]) -> tuple[int, ...]:
    """Read numbers and ranges of GPUs, such as "0,2-3", or "all"; ascending.

    Raises:
        InvalidGoalError: It cannot be read, or a GPU is not there.
    """
    if text.strip().lower() == ALL:
        return tuple(sorted(present))
    chosen: set[int] = set()
    for term in text.split(","):
        match = _RANGE.fullmatch(term.strip())
        if match is None:
            raise InvalidGoalError(f"GPUs {text!r}: expected {ALL}, or numbers and ranges such as 0,2-3")
        first = int(match["first"])
        chosen.update(range(first, int(match["last"] or first) + 1))
    check_present(chosen, present)
    return tuple(sorted(chosen))


def check_present(indices: Iterable[int], present: Collection[int]) -> None:
    """Pass only if all these GPUs are there.

    Raises:
        InvalidGoalError: One is not; the message lists those that are.
    """
    missing = sorted(set(indices) - set(present))
    if missing:
        there = ", ".join(map(str, sorted(present))) or "no GPU"
        raise InvalidGoalError(f"GPU {missing[0]} is not there: expected one of {there}")


def parse_allowed(texts: Iterable[str], present: Collection[int]) -> dict[int, frozenset[int]]:
    """Read which foreign instances may be destroyed, each as `GPU/ID`; by GPU.

    Raises:
        InvalidGoalError: One cannot be read, or its GPU is not there.
    """
    allowed: dict[int, set[int]] = {}
    for text in texts:
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text.strip())
        if match is None:
            raise InvalidGoalError(
                f"--allow {text!r}: expected GPU/ID, such as 0/3", hint="`clover mig status` prints the ids."
            )
        check_present([int(match[1])], present)
        allowed.setdefault(int(match[1]), set()).add(int(match[2]))
    return {index: frozenset(ids) for index, ids in allowed.items()}


def _of_gpu(index: int, model: GpuModel, text: str) -> Wanted:
    try:
        return parse_partition(model, text)
    except PartitionRejectedError as error:
        raise PartitionRejectedError(f"GPU {index}: {error}", hint=error.hint) from error


def _exact(model: GpuModel, text: str) -> Partition:
    try:
        return Partition(placed=tuple(_placed(model, term, text) for term in _SEPARATOR.split(text.strip().lower())))
    except ValueError as error:
        raise PartitionRejectedError(f"layout {text!r}: {error}") from error


def _placed(model: GpuModel, term: str, text: str) -> PlacedProfile:
    size, at, start = term.partition("@")
    if not (size and at and start.isascii() and start.isdigit()):
        raise PartitionRejectedError(f"layout {text!r}: expected a start for each instance, such as 4g@0+3g@4")
    return place(model.profile(size), int(start))
