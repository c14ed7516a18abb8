"""`clover infer`: one real answer, from the running deployment or from one instance started for this call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.connection import connected
from cli.output import number, print_json, tell

if TYPE_CHECKING:
    from clover.agents.client import Answer
    from clover.bus.messages import PlanRecord
    from clover.bus.port import Bus

#: A single answer may take this long, start of the instance not included.
ANSWER_WITHIN_S = 30.0

#: One instance must be ready after this long (loading torch from a cold disk takes a while).
START_WITHIN_S = 120.0


def infer(
    picture: Annotated[str, typer.Argument(help="A picture file, or a sample: chelsea, coffee, camera, rocket.")],
    *,
    application: options.App = "efficientnet_lite",
    trace: options.Trace = "ciso-march",
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Classify one picture with a real model.

    Example: clover infer --app efficientnet_lite chelsea
    """
    from clover.catalog import load_application  # noqa: PLC0415 - keeps --help fast
    from clover.errors import ConfigurationError  # noqa: PLC0415
    from clover.serving.availability import require_models  # noqa: PLC0415
    from clover.serving.samples import SAMPLES, load_input  # noqa: PLC0415

    if load_application(application).servicer == "table":
        raise ConfigurationError(
            f"application {application} has figures but no weights", hint="real models: --app efficientnet_lite"
        )
    name = picture.removesuffix(".png").removesuffix(".jpg")
    content_type, payload = load_input(name if name in SAMPLES else picture)
    where = options.where(deployment, redis, state_dir)
    require_models()
    answer, started = asyncio.run(_ask(where, application, trace, content_type, payload))
    if as_json:
        print_json(_as_json(answer, started=started))
    else:
        _print(answer)


async def _ask(
    where: options.Where, application: str, trace: str, content_type: str, payload: bytes
) -> tuple[Answer, bool]:
    """Return the answer and whether an instance was started for it."""
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.agents.client import Client  # noqa: PLC0415
    from clover.agents.deployment import find_url  # noqa: PLC0415
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415

    running = find_url(where.redis, where.state_folder, where.deployment)
    context = _running(where, application) if running else _started(application, trace)
    async with context as (bus, plan):
        client = Client(
            bus=bus,
            clock=SystemClock(),
            rng=Random(),  # noqa: S311 - ids
            application=application,
            name=f"infer-{options.unique_name()}",
        )
        return await client.infer(
            content_type, payload, wait_s=ANSWER_WITHIN_S, bound=plan.admission_bound
        ), not running


@contextlib.asynccontextmanager
async def _running(where: options.Where, application: str) -> AsyncIterator[tuple[Bus, PlanRecord]]:
    from clover.errors import ConfigurationError, NotReadyError  # noqa: PLC0415

    bus = await connected(where, "infer")
    try:
        plan = await bus.plan()
        if plan is None:
            raise NotReadyError("the deployment has no plan yet", hint="`clover status --wait-ready` waits for it")
        if plan.application != application:
            raise ConfigurationError(
                f"deployment {where.deployment!r} serves {plan.application}, not {application}",
                hint=f"ask it with --app {plan.application}, or choose another --deployment",
            )
        yield bus, plan
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def _started(application: str, trace: str) -> AsyncIterator[tuple[Bus, PlanRecord]]:
    """Run a deployment of one instance of the largest variant inside this process, on the in-process bus."""
    from clover.agents.single import SingleInstance  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import load_trace  # noqa: PLC0415
    from clover.errors import NotReadyError  # noqa: PLC0415
    from clover.serving.process import ProcessServicer  # noqa: PLC0415

    fleet = options.fleet(application, "cpu", "a100-40gb", None)
    grid = load_trace(trace)
    largest = fleet.model.application.largest.name
    tell(f"no deployment is running: starting one instance of {largest} for this call")
    tell(f"intensity: the first value of {grid.name}, {grid.values_g_per_kwh[0]:g} gCO2e/kWh")
    single = SingleInstance(fleet=fleet, trace=grid, servicer=ProcessServicer)
    async with single.running() as ready:
        try:
            async with asyncio.timeout(START_WITHIN_S):
                plan = await ready
        except TimeoutError:
            plan = None
        if plan is None:
            raise NotReadyError(f"the instance was not ready within {START_WITHIN_S:g} s")
        yield single.bus, plan


def _as_json(answer: Answer, *, started: bool) -> dict[str, Any]:
    import orjson  # noqa: PLC0415 - keeps --help fast

    reply, intensity = answer.reply, answer.intensity
    result = orjson.loads(reply.payload) if reply.content_type == "application/json" else None
    return {
        "outcome": reply.outcome.value,
        "reason": reply.reason,
        "result": result,
        "variant": reply.variant,
        "accuracy_pct": reply.accuracy_pct,
        "node": reply.node,
        "profile": reply.profile,
        "latency_ms": answer.latency_ms,
        "service_ms": reply.service_ms,
        "energy_j": reply.energy_j,
        "energy_source": reply.energy_source,
        "footprint_g": answer.footprint_g,
        "intensity_g_per_kwh": intensity.g_per_kwh if intensity else None,
        "pue": intensity.pue if intensity else None,
        "instance_started_for_this_call": started,
    }


def _print(answer: Answer) -> None:
    from clover.core.outcome import Outcome  # noqa: PLC0415 - keeps --help fast
    from clover.serving.port import ServingError  # noqa: PLC0415

    figures, reply = _as_json(answer, started=False), answer.reply
    if reply.outcome is not Outcome.OK:
        raise ServingError(f"{reply.outcome.value}: {reply.reason}")
    result = figures["result"] or {}
    print(f"{result.get('label', '?')} ({100 * result.get('probability', 0.0):.0f} %)")
    print(f"variant     {reply.variant} on {reply.profile} of {reply.node} (published accuracy {reply.accuracy_pct} %)")
    print(f"latency     {answer.latency_ms:.0f} ms, of which {reply.service_ms:.0f} ms of work")
    print(f"energy      {number(reply.energy_j, ' J', 2)} ({reply.energy_source})")
    if answer.footprint_g is not None and answer.intensity is not None:
        grid = f"{answer.intensity.g_per_kwh:g} g/kWh x PUE {answer.intensity.pue:g}"
        print(f"footprint   {answer.footprint_g:.2e} gCO2e at {grid}, idle power not included")
