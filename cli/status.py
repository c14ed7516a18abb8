"""`clover status`: what a deployment is doing, and why."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli import options
from cli.output import print_json, tell


def status(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    wait_ready: Annotated[bool, typer.Option("--wait-ready", help="Wait until the plan is in force.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print nodes, GPUs, plan, SLA and intensity, each with since when and why.

    Examples: clover status; clover status --wait-ready --wait 30s
    """
    here = options.where(deployment, redis, state_dir, wait)
    found = asyncio.run(_collect(here, wait_ready=wait_ready))
    if as_json:
        print_json(found)
    else:
        _print(found)


async def _collect(here: options.Where, *, wait_ready: bool) -> dict[str, Any]:
    from clover.agents.runtime import wait_for_bus  # noqa: PLC0415 - keeps --help fast

    bus = await wait_for_bus(
        redis=here.redis,
        state_folder=here.state_folder,
        deployment=here.deployment,
        client="status",
        wait_s=here.wait_s if wait_ready else 0.0,
        tell=tell,
    )
    try:
        if wait_ready:
            await _ready(bus, here.wait_s)
        return await _read(bus)
    finally:
        await bus.close()


async def _ready(bus: Any, wait_s: float) -> None:
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.agents.backoff import Backoff  # noqa: PLC0415
    from clover.agents.readiness import wait_until_serving  # noqa: PLC0415
    from clover.errors import NotReadyError  # noqa: PLC0415

    try:
        async with asyncio.timeout(wait_s):
            await wait_until_serving(
                bus,
                seen_after_ms=time.time() * 1e3 - 10_000.0,
                block_s=1.0,
                backoff=Backoff(Random()),  # noqa: S311 - jitter
                stop=asyncio.Event(),
            )
    except TimeoutError:
        raise NotReadyError(f"no plan was in force within {wait_s:g} s", hint="`clover events` tells why") from None


async def _read(bus: Any) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    plan, nodes, carbon = await bus.plan(), await bus.node_states(), await bus.carbon_now()
    queue, alive = await bus.queue(), await bus.alive()
    return {
        "deployment": bus.deployment,
        "plan": msgspec.to_builtins(plan),
        "nodes": [msgspec.to_builtins(node) for _, node in sorted(nodes.items())],
        "intensity": msgspec.to_builtins(carbon.get("intensity")),
        "ledger": msgspec.to_builtins(carbon.get("ledger")),
        "queue": msgspec.to_builtins(queue),
        "agents_seen_s_ago": alive,
    }


def _print(found: dict[str, Any]) -> None:
    plan, intensity = found["plan"], found["intensity"]
    if plan:
        print(
            f"plan       epoch {plan['epoch']}, {plan['state']} since {_at(plan['since_ms'])}, "
            f"scheme {plan['scheme']}: {plan['reason']}"
        )
        p95 = plan["prediction"]["p95_ms"]
        print(f"SLA        p95 {plan['sla_p95_ms']:g} ms, predicted {'overload' if p95 is None else f'{p95:.0f} ms'}")
    else:
        print("plan       none yet")
    if intensity:
        print(f"intensity  {intensity['g_per_kwh']:g} g/kWh since {_at(intensity['from_ms'])}, {intensity['source']}")
    else:
        print("intensity  not known yet")
    print(f"queue      {found['queue']['waiting']} waiting, {found['queue']['pending']} in work")
    for node in found["nodes"]:
        print(
            f"node {node['node']}  epoch {node['applied_epoch']} of {node['epoch']}, "
            f"{node['backend']}, seen {_at(node['at_ms'])}"
        )
        for gpu in node["gpus"]:
            held = " ".join(f"{i['profile']}:{i['variant']}" for i in gpu["instances"]) or "-"
            print(f"  gpu{gpu['index']}  {gpu['phase']} since {_at(gpu['since_ms'])} ({gpu['reason']}): {held}")


def _at(at_ms: float) -> str:
    return datetime.fromtimestamp(at_ms / 1e3, tz=UTC).strftime("%H:%M:%SZ")
