"""Reads a board's own table of profiles and placements from its driver: no fixed ids, no fixed geometry. Blocks.

Two numbers are called profile: the enumerator, under which the driver is asked what it knows, and the id, which every
other call takes and whose meaning depends on the board.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mig.errors import MigError, MigNotSupportedError
from mig.nvml_binding import KNOWN_ENUMERATORS, Nvml
from mig.nvml_errors import translate
from mig.nvml_values import Code, GpuHandle, NvmlFailure, ProfileInfo
from mig.profiles import GPU_MODELS, GpuModel, Profile, size_of

# Asking stops at the first enumerator that the driver calls invalid, and here at the latest.
_MOST_ENUMERATORS = 64

# Enumerators with media engines (NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1 and 2_SLICE_REV1): only needed where the driver
# is too old to give names.
_MEDIA_ENUMERATORS = {0x7, 0x8}

_NAME = re.compile(r"\d+g\.\d+gb([+-][a-z.]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardTable:
    """What a driver offers on a board.

    Attributes:
        model: The board, or why there is no table of it.
        kinds: Every kind of instance that the driver knows, by its id, those too that are no part of the model.
        notes: What was left out and why, a sentence each.
    """

    model: GpuModel | MigError
    kinds: dict[int, ProfileInfo]
    notes: tuple[str, ...] = ()


def discover(nvml: Nvml, gpu: GpuHandle, index: int) -> BoardTable:
    """Read the table of a GPU.

    Raises:
        MigError: The driver fails; a board without MIG and a user without rights are in the table instead.
    """
    try:
        kinds, notes = _kinds(nvml, gpu)
        title, source = nvml.name(gpu), f"driver {nvml.driver_version()}"
    except NvmlFailure as failure:
        raise translate(failure, f"GPU {index}: reading its profiles") from failure
    by_id = {kind.id: kind for kind in kinds}
    if not kinds:
        return BoardTable(model=MigNotSupportedError(f"GPU {index} ({title}): it offers no profiles"), kinds={})
    try:
        places = {kind.id: nvml.placements(gpu, kind.id) for kind in kinds}
    except NvmlFailure as failure:
        refused = translate(failure, f"GPU {index}: reading its placements")
        return _without_placements(by_id, kinds, refused, notes)
    profiles, left_out = _profiles(kinds, places)
    model = _model(title, source, profiles)
    return BoardTable(model=model, kinds=by_id, notes=(*notes, *left_out))


def profile_of(kind: ProfileInfo, start: int, size: int) -> Profile:
    """Describe a living instance whose kind is no part of the model."""
    name = kind.name or f"profile {kind.id}"
    return Profile(
        name=name,
        size=name,
        compute_slices=max(1, kind.compute_slices),
        memory_slices=size,
        memory_mib=max(1, kind.memory_mib),
        multiprocessors=max(1, kind.multiprocessors),
        nvml_id=kind.id,
        max_count=max(1, kind.max_count),
        starts=(start,),
    )


def _kinds(nvml: Nvml, gpu: GpuHandle) -> tuple[list[ProfileInfo], list[str]]:
    kinds: list[ProfileInfo] = []
    notes: list[str] = []
    for enumerator in range(_MOST_ENUMERATORS):
        try:
            kind = nvml.profile_info(gpu, enumerator)
        except NvmlFailure as failure:
            if failure.code == Code.NOT_SUPPORTED:
                continue
            if failure.code == Code.INVALID_ARGUMENT:
                break
            raise
        kinds.append(kind)
        if enumerator >= KNOWN_ENUMERATORS:
            notes.append(f"profile {kind.name or kind.id} left out: the driver is newer than what is known here")
    return kinds, notes


def _profiles(
    kinds: Iterable[ProfileInfo], places: dict[int, tuple[tuple[int, int], ...]]
) -> tuple[list[Profile], list[str]]:
    known = [kind for kind in kinds if kind.enumerator < KNOWN_ENUMERATORS]
    if any(not kind.name for kind in known):
        known = _with_names(known, places)
    found: dict[str, Profile] = {}
    notes: list[str] = []
    # The plain profile of some compute slices is the one with the least memory, so it comes first.
    for kind in sorted(known, key=lambda kind: (kind.compute_slices, kind.memory_mib, kind.id)):
        profile = _profile(kind, places[kind.id], found)
        if isinstance(profile, str):
            notes.append(f"profile {kind.name or kind.id} left out: {profile}")
        else:
            found[profile.size] = profile
    return list(found.values()), notes


def _profile(kind: ProfileInfo, places: Sequence[tuple[int, int]], found: dict[str, Profile]) -> Profile | str:
    """Make a profile, or say why not."""
    lengths = {length for _, length in places}
    if len(lengths) != 1:
        return f"its placements have {len(lengths)} lengths, expected 1"
    if not _NAME.fullmatch(kind.name):
        return "its name is not of a known form"
    size = size_of(kind.name)
    plain = found.get(size)
    if plain is not None and plain.memory_slices < min(lengths):
        size = size_of(kind.name, double_memory=True)
    if size in found:
        return f"{found[size].name} has the short name {size} already"
    try:
        return Profile(
            name=kind.name,
            size=size,
            compute_slices=kind.compute_slices,
            memory_slices=min(lengths),
            memory_mib=kind.memory_mib,
            multiprocessors=kind.multiprocessors,
            nvml_id=kind.id,
            max_count=kind.max_count,
            starts=tuple(sorted({start for start, _ in places})),
        )
    except ValueError as error:
        return str(error)


def _with_names(kinds: Sequence[ProfileInfo], places: dict[int, tuple[tuple[int, int], ...]]) -> list[ProfileInfo]:
    """Name profiles as the driver would: compute slices, and memory in whole GB of the board's memory slices."""
    slices = max((start + size for kind in kinds for start, size in places[kind.id]), default=1)
    largest = max(kind.memory_mib for kind in kinds)
    per_slice = math.ceil(largest / 1024 / slices)

    def name(kind: ProfileInfo) -> str:
        length = max((size for _, size in places[kind.id]), default=1)
        media = "+me" if kind.enumerator in _MEDIA_ENUMERATORS else ""
        return f"{kind.compute_slices}g.{length * per_slice}gb{media}"

    return [replace(kind, name=kind.name or name(kind)) for kind in kinds]


def _model(title: str, source: str, profiles: Sequence[Profile]) -> GpuModel | MigError:
    if not profiles:
        return MigNotSupportedError(f"{title}: none of its profiles can be used here")
    model = GpuModel(
        name=re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "unknown",
        title=title,
        compute_slices=max(profile.compute_slices for profile in profiles),
        memory_slices=max(profile.starts[-1] + profile.memory_slices for profile in profiles),
        profiles=tuple(profiles),
        source=source,
    )
    bundled = next((each for each in GPU_MODELS.values() if _geometry(each) == _geometry(model)), None)
    return replace(model, name=bundled.name) if bundled else model


def _geometry(model: GpuModel) -> list[tuple[str, int, int, tuple[int, ...]]]:
    # Only the plain profiles, for an older driver offers fewer special ones on the same board; with the
    # multiprocessors, for an A100 and an H100 of 80 GB differ in nothing else. Memory differs between drivers.
    return [(each.name, each.nvml_id, each.multiprocessors, each.starts) for each in model.basic_profiles]


def _without_placements(
    by_id: dict[int, ProfileInfo], kinds: Sequence[ProfileInfo], refused: MigError, notes: Sequence[str]
) -> BoardTable:
    """Use the bundled table of a board that offers just the same profiles, if there is one."""
    offered = {(kind.id, kind.name, kind.multiprocessors, kind.max_count) for kind in kinds}
    for model in GPU_MODELS.values():
        if {(each.nvml_id, each.name, each.multiprocessors, each.max_count) for each in model.profiles} == offered:
            note = f"placements taken from the bundled table of {model.name}: this user may not read the driver's"
            return BoardTable(model=model, kinds=by_id, notes=(*notes, note))
    return BoardTable(model=refused, kinds=by_id, notes=tuple(notes))
