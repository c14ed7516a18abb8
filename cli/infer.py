"""`clover infer`: one real answer, from the running deployment or from one instance started for this call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, real_models
from cli.connection import connected
from cli.output import number, print_json, tell

if TYPE_CHECKING:
    from clover.agents.client import Answer
    from clover.bus.messages import PlanRecord
    from clover.bus.port import Bus

#: A single answer may take this long, start of the instance not included (a large model on a core takes its time).
ANSWER_WITHIN_S = 120.0

#: One instance must be ready after this long (loading torch from a cold disk takes a while).
START_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question and where it shall be answered.

    Attributes:
        where: Deployment and server.
        app: Application, a name or a file.
        variant: The only one to start where no deployment runs; None takes the largest.
        weights, trace: As in `clover up`.
        content_type, payload: The input.
        min_accuracy: Least accuracy in % that may answer, None for any.
    """

    where: options.Where
    app: str
    variant: str | None
    weights: str
    trace: str
    content_type: str
    payload: bytes
    min_accuracy: float | None = None


def infer(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(help="Picture files, or samples: chelsea, coffee, camera, rocket, motorcycle_left."),
    ] = None,
    *,
    application: options.App = "efficientnet_lite",
    question: Annotated[str | None, typer.Option("--question", help="What to ask about a text.")] = None,
    context: Annotated[str | None, typer.Option("--context", help="The text.")] = None,
    context_file: Annotated[Path | None, typer.Option("--context-file", help="File with the text (UTF-8).")] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant to start where no deployment runs (default: the largest).")
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option("--min-accuracy", min=0.0, max=100.0, help="Least accuracy in % that may answer (default: any)."),
    ] = None,
    weights: options.Weights = "",
    trace: options.Trace = "ciso-march",
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Get one real answer: what a picture shows, where the objects are in it, or what a text says.

    Examples: clover infer chelsea; clover infer --app albert --question "Who?" --context-file text.txt
    """
    from clover.catalog import load_application  # noqa: PLC0415 - keeps --help fast
    from clover.errors import ConfigurationError  # noqa: PLC0415
    from clover.serving.availability import require_models  # noqa: PLC0415

    found = load_application(application)
    if found.servicer == "table":
        raise ConfigurationError(
            f"application {found.name} has figures but no weights", hint="real models: --app efficientnet_lite"
        )
    if found.input == "question":
        content_type, payload = _question(question, context, context_file)
    else:
        content_type, payload = _pictures(pictures or [])
    require_models(found.servicer)
    asked = Asked(
        where=options.where(deployment, redis, state_dir),
        app=application,
        variant=variant,
        weights=weights,
        trace=trace,
        content_type=content_type,
        payload=payload,
        min_accuracy=min_accuracy,
    )
    answer, started = asyncio.run(_ask(asked, found.name))
    if as_json:
        print_json(_as_json(answer, started=started))
    else:
        _print(answer)


def _question(question: str | None, context: str | None, context_file: Path | None) -> tuple[str, bytes]:
    from clover.errors import ConfigurationError  # noqa: PLC0415 - keeps --help fast
    from clover.serving.questions import encode_question  # noqa: PLC0415

    if not (question or "").strip():
        raise ConfigurationError("--question is empty: expected what to ask about the text")
    if (context is None) == (context_file is None):
        raise ConfigurationError("the text is missing: expected either --context or --context-file")
    try:
        text = context_file.read_text(encoding="utf-8") if context_file else context or ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--context-file {context_file}: {error}") from error
    if not text.strip():
        raise ConfigurationError("the text is empty: expected something to ask about")
    return encode_question(question or "", text)


def _pictures(names: list[str]) -> tuple[str, bytes]:
    from clover.errors import ConfigurationError  # noqa: PLC0415 - keeps --help fast
    from clover.serving.inputs import batch_of  # noqa: PLC0415
    from clover.serving.samples import SAMPLES, load_input  # noqa: PLC0415

    if not names:
        raise ConfigurationError(f"no picture was given: expected a file, or one of {', '.join(SAMPLES)}")
    plain = [name.removesuffix(".png").removesuffix(".jpg") for name in names]
    loaded = [load_input(short if short in SAMPLES else name) for short, name in zip(plain, names, strict=True)]
    return loaded[0] if len(loaded) == 1 else batch_of([payload for _, payload in loaded])


async def _ask(asked: Asked, name: str) -> tuple[Answer, bool]:
    """Return the answer and whether an instance was started for it."""
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.agents.client import Client  # noqa: PLC0415
    from clover.agents.deployment import find_url  # noqa: PLC0415
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415

    running = find_url(asked.where.redis, asked.where.state_folder, asked.where.deployment)
    context = _running(asked.where, name) if running else _started(asked)
    async with context as (bus, plan):
        client = Client(
            bus=bus,
            clock=SystemClock(),
            rng=Random(),  # noqa: S311 - ids
            application=name,
            name=f"infer-{options.unique_name()}",
        )
        return await client.infer(
            asked.content_type,
            asked.payload,
            wait_s=ANSWER_WITHIN_S,
            bound=plan.admission_bound,
            min_accuracy=asked.min_accuracy,
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
async def _started(asked: Asked) -> AsyncIterator[tuple[Bus, PlanRecord]]:
    """Run a deployment of one instance inside this process, on the in-process bus."""
    from clover.agents.fleet import make_fleet  # noqa: PLC0415 - keeps --help fast
    from clover.agents.single import SingleInstance  # noqa: PLC0415
    from clover.catalog import load_trace, unmeasured_service  # noqa: PLC0415
    from clover.errors import NotReadyError  # noqa: PLC0415

    grid = load_trace(asked.trace)
    model = unmeasured_service(asked.app, "cpu", variant=asked.variant)
    fleet = make_fleet(backend="cpu", board="a100-40gb", model=model)
    tell(f"no deployment is running: starting one instance of {model.application.largest.name} for this call")
    tell(f"intensity: the first value of {grid.name}, {grid.values_g_per_kwh[0]:g} gCO2e/kWh")
    real_models.tell_weights(asked.weights)
    servicer = real_models.process_servicer(None, fleet, app=asked.app, weights=asked.weights)
    single = SingleInstance(fleet=fleet, trace=grid, servicer=servicer)
    async with single.running() as ready:
        plan = await _in_time(ready, single.bus)
        if plan is None:
            raise NotReadyError(f"the instance was not ready within {START_WITHIN_S:g} s")
        yield single.bus, plan


async def _in_time(ready: asyncio.Task[PlanRecord | None], bus: Bus) -> PlanRecord | None:
    """Wait until the instance serves; what keeps it from serving is the error that people want to see."""
    from clover.bus.messages import Event  # noqa: PLC0415 - keeps --help fast
    from clover.bus.values import Feed  # noqa: PLC0415
    from clover.serving.port import ServingError  # noqa: PLC0415

    async def first_failure() -> str:
        cursor = "0"
        while True:
            for entry in await bus.follow({Feed.EVENTS: cursor}, block_s=1.0):
                cursor = entry.id
                if isinstance(entry.message, Event) and entry.message.kind == "gpu.failed":
                    return entry.message.reason

    failure = asyncio.create_task(first_failure())
    try:
        await asyncio.wait({ready, failure}, timeout=START_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            return ready.result()
        if failure.done():
            raise ServingError(failure.result())
        return None
    finally:
        failure.cancel()


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
    for line in _lines(result):
        print(line)
    if "weights" in result:
        print(f"            {result['weights']}")
    print(f"variant     {reply.variant} on {reply.profile} of {reply.node} (published accuracy {reply.accuracy_pct} %)")
    print(f"latency     {answer.latency_ms:.0f} ms, of which {reply.service_ms:.0f} ms of work")
    print(f"energy      {number(reply.energy_j, ' J', 2)} ({reply.energy_source})")
    if answer.footprint_g is not None and answer.intensity is not None:
        grid = f"{answer.intensity.g_per_kwh:g} g/kWh x PUE {answer.intensity.pue:g}"
        print(f"footprint   {answer.footprint_g:.2e} gCO2e at {grid}, idle power not included")


def _lines(result: dict[str, Any]) -> list[str]:
    """Return what an answer says, a line per picture, object or text."""
    if "results" in result:
        return [line for each in result["results"] for line in _lines(each)]
    if "detections" in result:
        found = [f"{d['label']} ({100 * d['score']:.0f} %) at {d['box']}" for d in result["detections"]]
        return found or ["nothing found"]
    if "answer" in result:
        sure = f"({100 * result['probability']:.0f} %)"
        cut = ["(the text was longer than the model reads: its end was left out)"] if result["truncated"] else []
        return [f"{result['answer']} {sure}" if result["answerable"] else "the text does not say", *cut]
    return [f"{result.get('label', '?')} ({100 * result.get('probability', 0.0):.0f} %)"]
