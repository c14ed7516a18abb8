"""What `clover up` was asked for, checked before anything is started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import carbon_options, options, real_models
from cli.arrival_options import ArrivalChoice
from cli.batching_options import batching_arguments, batching_of
from cli.fleets import default_gpus, fleet_of, rate_of, spread_gpus
from cli.goals import check_goals, goals_of
from cli.load_profile_options import LoadProfileChoice
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.agents.goals import Goals


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What `up` was asked for, checked.

    Attributes:
        where: Deployment and server.
        gpus: GPUs per node.
        rate_rps: Mean arrival rate, which is planned for at first.
        arrivals: When requests are due.
        load_profile: Which load the controller knows in advance.
        goals: What is asked of the planner.
        park_w: Power of a parked GPU in W, None for the table's.
        shared: Options that every agent gets.
        node_options: Options that node agents get beside.
        batches: Options that node agents and controller get beside: how requests are served together.
        carbon, pue: Grid.
        scheme, faithful, evaluate: Planning.
        duration_s: How long requests become due, None until stopped.
        metrics_port: Of the carbon monitor; nodes, controller and generator have the ports after it. None: no metrics.
        seed: Of everything random.
        dashboard: Whether to draw the dashboard where there is a terminal.
        as_json: Whether the summary is JSON.
        own_load: Whether it sends requests of its own.
        require_durable: Whether a server that may lose data is refused.
        batching: How requests are served together, in words; empty if each is served alone.
        environment: Settings that only some agents know, as environment variables.
    """

    where: options.Where
    gpus: tuple[int, ...]
    rate_rps: float
    arrivals: ArrivalChoice
    load_profile: LoadProfileChoice
    goals: Goals
    park_w: float | None
    shared: tuple[str, ...]
    node_options: tuple[str, ...]
    batches: tuple[str, ...]
    carbon: carbon_options.CarbonChoice
    pue: float
    scheme: str
    faithful: bool
    evaluate: str
    duration_s: float | None
    metrics_port: int | None
    seed: int
    dashboard: bool
    as_json: bool
    require_durable: bool
    own_load: bool
    batching: str
    environment: Mapping[str, str] = field(default_factory=dict)


def check(
    *,
    where: options.Where,
    application: str,
    gpus: int | None,
    nodes: int | None,
    board: str,
    backend: str,
    helper: Path | None,
    scheme: str,
    carbon: carbon_options.CarbonChoice,
    rate: float | None,
    arrivals: ArrivalChoice,
    load_profile: LoadProfileChoice,
    sla: str | None,
    profile: Path | None,
    weights: str,
    inputs: Path | None,
    input_roots: list[str],
    served_together: tuple[int, float | None],
    lambda_: float,
    asks: dict[str, Any],
    park_w: float | None,
    power: tuple[str, str, float],
    pue: float,
    seed: int,
    **rest: Any,
) -> UpSettings:
    """Refuse what cannot work before anything is started."""
    from clover.agents.assembly import checked_evaluate  # noqa: PLC0415 - keeps --help fast
    from clover.plan.schemes import make_scheme  # noqa: PLC0415

    check_goals(lambda_, pue)
    make_scheme(scheme, seed=seed)
    fleet = fleet_of(application, backend, board, profile, park_w)
    carbon.check()
    real_models.inputs_of(fleet, inputs)
    count = _gpus(gpus, backend, helper, board)
    spread = spread_gpus(count, nodes or (min(2, count) if backend == "sim" else 1))
    if backend == "nvml" and len(spread) > 1:
        raise ConfigurationError(
            "--nodes: a host with real GPUs is one node", hint="Start `clover agent node` on others."
        )
    if backend != "sim":
        real_models.process_servicer(None, fleet, app=application, weights=weights)
        real_models.tell_weights(weights)
    goals = goals_of(fleet, lambda_=lambda_, sla=sla, gpus=count, **asks)
    checked_evaluate(rest["evaluate"], scheme, goals)
    batching = batching_of(fleet, *served_together, sla_ms=goals.sla_ms)
    if backend == "cpu":
        real_models.check_memory(workers=count * fleet.board.compute_slices, each_mb=real_models.worker_mb(application))
    shared = [
        "--app",
        real_models.absolute_app(application),
        "--backend",
        backend,
        "--gpu-model",
        board,
        "--seed",
        str(seed),
    ]
    if profile is not None:
        shared += ["--profile", str(profile.resolve())]
    node_options = _power_options(power, backend, goals.parking)
    if helper is not None:
        node_options += ("--helper", str(helper.resolve()))
    return UpSettings(
        where=where,
        gpus=spread,
        rate_rps=_rate(arrivals, load_profile, rate, count, fleet, rest["duration_s"]),
        arrivals=arrivals,
        load_profile=load_profile,
        goals=goals,
        park_w=park_w,
        shared=tuple(shared),
        node_options=node_options,
        batches=batching_arguments(batching),
        carbon=carbon,
        pue=pue,
        scheme=scheme,
        seed=seed,
        batching=batching.text,
        environment=_environment(weights, inputs, input_roots),
        **rest,
    )


def _rate(
    arrivals: ArrivalChoice,
    known: LoadProfileChoice,
    rate: float | None,
    gpus: int,
    fleet: Fleet,
    duration_s: float | None,
) -> float:
    """Return the mean arrival rate; reads traces of the load, so that a broken one is said before anything starts."""
    arrivals.check(rate=rate, profiled=known.file is not None)
    known.rates()
    load = arrivals.load(rate_rps=rate_of(rate, gpus, fleet), duration_s=duration_s)
    return load.rate_rps if load.mean_rps is None else load.mean_rps


def _power_options(power: tuple[str, str, float], backend: str, parking: str) -> tuple[str, ...]:
    """Return what nodes must know to switch GPUs off and on; refuse to plan so where they cannot."""
    from clover.agents.power_switch import power_switch, require_hooks  # noqa: PLC0415 - keeps --help fast

    off, on, limit_s = power
    require_hooks(backend, parking, off=off)
    power_switch("", off=off, on=on, limit_s=limit_s)
    return ("--power-off", off, "--power-on", on, "--power-limit", f"{limit_s}s") if off.strip() else ()


def _environment(weights: str, inputs: Path | None, input_roots: list[str]) -> dict[str, str]:
    """Return what nodes and generator must know of real models, as they read it from the environment."""
    found = weights if weights in {"", "random"} else str(Path(weights).resolve())
    values = {
        "CLOVER_WEIGHTS": found,
        "CLOVER_INPUTS": str(inputs.resolve()) if inputs else "",
        # Click splits a list in the environment at white space.
        "CLOVER_INPUT_ROOTS": " ".join(input_roots),
    }
    return {name: value for name, value in values.items() if value}


def _gpus(given: int | None, backend: str, helper: Path | None, board: str) -> int:
    """Return how many GPUs there shall be; of real ones at most those that can be used."""
    if backend != "nvml":
        return given or (default_gpus(backend) if backend == "cpu" else 10)
    from clover.agents.nvml_node import count_usable  # noqa: PLC0415 - needed for this backend only

    usable = asyncio.run(count_usable(helper, board))
    if given is not None and given > usable:
        raise ConfigurationError(f"--gpus = {given}: expected at most the {usable} that can be used here")
    return given or usable
