"""`clover status`: what a deployment is doing, since when and why."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.connection import connected
from cli.output import print_json, tell

if TYPE_CHECKING:
    from clover.bus.messages import NodeTelemetry
    from clover.bus.port import Bus

#: An agent that has not been heard of for this long is called silent; it beats every second or two.
_ALIVE_S = 10.0
#: States of nodes are kept for a minute; those heard of within this time are in the deployment.
_RECENT_S = 10.0


def status(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            parser=options.parse_duration,
            metavar="DURATION",
            help="Longest wait for the server (default: none; with --wait-ready 60s).",
        ),
    ] = None,
    wait_ready: Annotated[bool, typer.Option("--wait-ready", help="Wait until the plan is in force.")] = False,
    embodied: Annotated[
        str | None,
        typer.Option(
            "--embodied", help="Embodied kg CO2e per GPU and years: low:high:years, or none.", envvar="CLOVER_EMBODIED"
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print it anew every few seconds, until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option("--interval", parser=options.parse_duration, metavar="DURATION", help="How often, with --watch."),
    ] = "2s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    as_json: options.Json = False,
) -> None:
    """Print plan, SLA, intensity, agents, nodes and GPUs, each with since when and why.

    Examples: clover status; clover status --watch; clover status --wait-ready --wait 30s
    """
    wait_s = wait if wait is not None else 60.0 if wait_ready else 0.0
    here = options.where(deployment, redis, state_dir, wait_s)
    told = _Told(embodied=embodied, as_json=as_json, clear=watch and sys.stdout.isatty() and not as_json)
    if watch:
        asyncio.run(_watch(here, interval, told, wait_ready=wait_ready))
    else:
        told.tell(asyncio.run(_collect(here, wait_ready=wait_ready)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """How it is told."""

    embodied: str | None
    as_json: bool
    clear: bool

    def tell(self, found: dict[str, Any]) -> None:
        _tell(found, self.embodied, as_json=self.as_json, clear=self.clear)


def _tell(found: dict[str, Any], embodied: str | None, *, as_json: bool, clear: bool) -> None:
    from cli.status_carbon import sci_of  # noqa: PLC0415 - keeps --help fast

    found["sci"] = sci_of(found, embodied)
    if as_json:
        print_json(found)
        return
    if clear:
        print("\x1b[H\x1b[2J", end="")
    _print(found)
    sys.stdout.flush()


async def _watch(here: options.Where, interval_s: float, told: _Told, *, wait_ready: bool) -> None:
    """Tell again and again; a server that goes away is said, and waited for."""
    from clover.errors import BusError  # noqa: PLC0415 - keeps --help fast

    while True:
        try:
            told.tell(await _collect(here, wait_ready=wait_ready))
        except BusError as error:
            tell(f"no status: {error}")
        wait_ready = False
        await asyncio.sleep(interval_s)


async def _collect(here: options.Where, *, wait_ready: bool) -> dict[str, Any]:

    loop = asyncio.get_running_loop()
    until_s = loop.time() + here.wait_s
    bus = await connected(here, "status")
    try:
        if wait_ready:
            await _until_ready(bus, until_s - loop.time(), here.wait_s)
        return await _read(bus)
    finally:
        await bus.close()


async def _until_ready(bus: Bus, left_s: float, wait_s: float) -> None:
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.agents.backoff import Backoff  # noqa: PLC0415
    from clover.agents.readiness import wait_until_serving  # noqa: PLC0415
    from clover.errors import NotReadyError  # noqa: PLC0415

    try:
        async with asyncio.timeout(max(0.0, left_s)):
            await wait_until_serving(
                bus,
                seen_after_ms=_now_ms() - _RECENT_S * 1e3,
                block_s=1.0,
                backoff=Backoff(Random()),  # noqa: S311 - jitter
                stop=asyncio.Event(),
            )
    except TimeoutError:
        raise NotReadyError(f"no plan was in force within {wait_s:g} s", hint="`clover events` tells why") from None


# --- reading


async def _read(bus: Bus) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from clover.agents.overriding import in_force  # noqa: PLC0415

    plan, nodes, carbon = await bus.plan(), await bus.node_states(), await bus.carbon_now()
    queue, alive, now_ms = await bus.queue(), await bus.alive(), _now_ms()
    checkpoint, override = await bus.checkpoint(), in_force(await bus.override(), _now_ms())
    return {
        "deployment": bus.deployment,
        "at_ms": now_ms,
        "plan": msgspec.to_builtins(plan),
        "override": msgspec.to_builtins(override),
        "nodes": [_node(nodes[name], now_ms) for name in sorted(nodes)],
        "intensity": msgspec.to_builtins(carbon.get("intensity")),
        "ledger": msgspec.to_builtins(carbon.get("ledger")),
        "ledger_parts": msgspec.to_builtins(checkpoint.parts if checkpoint is not None else None),
        "agents": {name: _agent(silent_s, now_ms) for name, silent_s in sorted(alive.items())},
        "queue": msgspec.to_builtins(queue),
    }


def _agent(silent_s: float, now_ms: float) -> dict[str, Any]:
    alive = silent_s <= _ALIVE_S
    reason = f"last sign of life {silent_s:.1f} s ago"
    return {
        "state": "alive" if alive else "silent",
        "silent_s": silent_s,
        "since_ms": now_ms - 1e3 * silent_s,
        "reason": reason,
    }


def _node(node: NodeTelemetry, now_ms: float) -> dict[str, Any]:
    """Describe a node; its own state is the worst that one of its GPUs has, or silence."""
    import msgspec  # noqa: PLC0415 - keeps --help fast

    state, since_ms, reason = _node_state(node, now_ms)
    told: dict[str, Any] = msgspec.to_builtins(node)
    return {**told, "state": state, "since_ms": since_ms, "reason": reason, "age_s": _age_s(node, now_ms)}


def _node_state(node: NodeTelemetry, now_ms: float) -> tuple[str, float, str]:
    from clover.analysis.view_fleet import SILENT_INTERVALS, SILENT_LEAST_S  # noqa: PLC0415 - keeps --help fast

    silent_s = _age_s(node, now_ms)
    if silent_s > max(SILENT_LEAST_S, SILENT_INTERVALS * node.interval_s):
        return "silent", node.at_ms, f"not heard of for {silent_s:.0f} s"
    for phase in ("failed", "changing", "empty"):
        gpus = [gpu for gpu in node.gpus if gpu.phase == phase]
        if gpus:
            return phase, min(gpu.since_ms for gpu in gpus), "; ".join(f"gpu{gpu.index}: {gpu.reason}" for gpu in gpus)
    serving = [gpu for gpu in node.gpus if gpu.phase == "serving"]
    state = "serving" if serving else "parked"
    since_ms = max((gpu.since_ms for gpu in node.gpus), default=node.booted_at_ms)
    return state, since_ms, f"{len(serving)} of {len(node.gpus)} GPUs serve, epoch {node.applied_epoch} is applied"


def _age_s(node: NodeTelemetry, now_ms: float) -> float:
    return max(0.0, now_ms - node.at_ms) / 1e3


def _now_ms() -> float:
    return time.time() * 1e3


# --- printing


def _print(found: dict[str, Any]) -> None:
    from cli.plan_manual import override_lines  # noqa: PLC0415 - keeps --help fast
    from cli.status_carbon import print_carbon  # noqa: PLC0415

    now_ms = found["at_ms"]
    print(f"deployment {found['deployment']}")
    _print_plan(found["plan"], now_ms)
    for line in override_lines(found["override"], now_ms):
        print(line)
    print_carbon(found["intensity"], found["ledger"], found["sci"], now_ms)
    queue = found["queue"]
    print(
        f"queue      {queue['waiting']} waiting, {queue['pending']} in work, {queue['admitted']} admitted so far; "
        f"oldest {queue['oldest_age_s']:.1f} s"
    )
    for name, agent in found["agents"].items():
        print(f"agent      {name}: {agent['state']}, {agent['reason']}")
    if not found["agents"]:
        print("agent      none has been heard of within the last hour")
    for node in found["nodes"]:
        print(f"node       {node['node']}: {node['state']} {_since(node['since_ms'], now_ms)}, {node['reason']}")
        if node["batching"]:
            print(f"  batching {node['batching']}")
        for gpu in node["gpus"]:
            print(_gpu_line(gpu, now_ms))
    if not found["nodes"]:
        print("node       none")


def _print_plan(plan: dict[str, Any] | None, now_ms: float) -> None:
    if plan is None:
        print("plan       none yet: the controller waits for nodes and for an intensity")
        return
    print(
        f"plan       epoch {plan['epoch']}, {plan['state']} {_since(plan['since_ms'], now_ms)}, "
        f"scheme {plan['scheme']}, decision {plan['decision']} on {plan['trigger']}: {plan['reason']}"
    )
    if plan["guard"] != "none":
        print(f"guard      at level {plan['guard']}: too many requests were late")
    if plan["fenced"]:
        print(f"fenced     {', '.join(plan['fenced'])}: broken, plans are made without")
    if off := plan["calibration"]["service"]:
        factors = ", ".join(f"{kind} x {factor:.2f}" for kind, factor in off.items())
        print(f"calibrated service times of the table, as measured: {factors}")
    prediction = plan["prediction"]
    expected = prediction["p95_ms"]
    print(
        f"predicted  p95 {'without bound' if expected is None else f'{expected:.0f} ms'}, "
        f"late {prediction['late_pct']:.1f} %, accuracy {prediction['accuracy_pct']:.2f} %, "
        f"{prediction['energy_j_per_request']:.1f} J per request "
        f"at {prediction['rate_rps']:.3g} requests/s"
    )
    kept = "kept" if expected is not None and expected <= plan["sla_p95_ms"] else "missed"
    print(f"SLA        p95 within {plan['sla_p95_ms']:g} ms, {kept} by the plan's own prediction")


def _gpu_line(gpu: dict[str, Any], now_ms: float) -> str:
    held = " ".join(_held(instance) for instance in gpu["instances"]) or "-"
    return f"  gpu{gpu['index']:<3} {gpu['phase']} {_since(gpu['since_ms'], now_ms)}, {gpu['reason']}: {held}"


def _held(instance: dict[str, Any]) -> str:
    where = " (CPU)" if instance["fallback"] else ""
    return f"{instance['profile']}@{instance['start']}:{instance['variant']}{where}"


def _since(at_ms: float, now_ms: float) -> str:
    from cli.dashboard_text import age, clock  # noqa: PLC0415 - keeps --help fast

    return f"since {clock(at_ms)} ({age(max(0.0, now_ms - at_ms) / 1e3)})"


def _clock(at_ms: float) -> str:
    from cli.dashboard_text import clock  # noqa: PLC0415 - keeps --help fast

    return clock(at_ms)
