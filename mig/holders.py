"""Finds the processes that have GPU device files open, by reading /proc as far as this user may."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from mig.device import Holder

PROC = Path("/proc")


def holders(pids: Iterable[int], proc: Path = PROC) -> tuple[Holder, ...]:
    """Give processes their names, ordered by pid."""
    return tuple(Holder(pid=pid, command=_command(proc / str(pid))) for pid in sorted(set(pids)))


def pids_with_open(paths: Collection[str], proc: Path = PROC) -> frozenset[int]:
    """Find the processes that have one of some files open; those of other users only as root."""
    if not paths:
        return frozenset()
    every = (entry for entry in proc.iterdir() if entry.name.isdigit())
    return frozenset(int(entry.name) for entry in every if not _open_files(entry).isdisjoint(paths))


def capability_files(minor: int, instance_id: int, proc: Path = PROC) -> frozenset[str]:
    """Device files that only users of one GPU instance open: /dev/nvidia-caps/nvidia-capN.

    Source: NVIDIA MIG User Guide, device nodes and capabilities; empty if the driver does not list them.
    """
    instance = proc / "driver" / "nvidia" / "capabilities" / f"gpu{minor}" / "mig" / f"gi{instance_id}"
    found: set[str] = set()
    for access in (instance / "access", *sorted(instance.glob("ci*/access"))):
        try:
            match = re.search(r"DeviceFileMinor:\s*(\d+)", access.read_text("ascii", "replace"))
        except OSError:
            continue
        if match:
            found.add(f"/dev/nvidia-caps/nvidia-cap{match[1]}")
    return frozenset(found)


def _open_files(process: Path) -> frozenset[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return frozenset()
    return frozenset(filter(None, map(_target, descriptors)))


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        # Closed meanwhile.
        return ""


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
