"""`clover plan`: the best plan for one load and grid, with its certificate and its bound. Needs no deployment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from cli import options, plan_manual, planning
from cli.output import number, print_json, tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.plan.problem import Answer, Problem

#: Exit code when what was asked cannot be kept.
_THRESHOLD_FAILED = 10
#: Schemes that can be asked by an accuracy floor or a carbon budget.
_ASKABLE = ("exact", "oracle", "threshold")


app = typer.Typer(invoke_without_command=True)
app.command("apply", help=plan_manual.apply.__doc__)(plan_manual.apply)
app.command("pin", help=plan_manual.pin.__doc__)(plan_manual.pin)
app.command("unpin", help=plan_manual.unpin.__doc__)(plan_manual.unpin)
app.command("pause", help=plan_manual.pause.__doc__)(plan_manual.pause)
app.command("resume", help=plan_manual.resume.__doc__)(plan_manual.resume)


@app.callback()
def plan(
    context: typer.Context,
    *,
    application: options.App = "albert",
    gpus: planning.Gpus = 10,
    nodes: planning.Nodes = None,
    board: options.Board = "a100-40gb",
    scheme: options.Scheme = "exact",
    rate: options.Rate = None,
    intensity: planning.Intensity = 250.0,
    pue: options.Pue = 1.5,
    lambda_: options.Lambda = 0.5,
    accuracy_floor: options.AccuracyFloor = None,
    carbon_budget: options.CarbonBudget = None,
    parking: options.Parking = "parked",
    park_w: options.ParkW = None,
    reserve: options.Reserve = 0,
    sla: options.Sla = None,
    profile: options.Profile = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Plan one fleet for one load and one intensity, and say how good and how certain the plan is.

    Exit code 10 if the SLA, the accuracy floor or the carbon budget cannot be kept: the nearest feasible plan is shown.
    upper_bound and gap are in units of what is asked: the objective; J per request (negative) under an accuracy floor;
    accuracy in % under a carbon budget.

    Needs no deployment; the subcommands tell one what to do.

    Examples: clover plan --app yolov5 --gpus 10 --rate 25 --lambda 0.1; clover plan --accuracy-floor 85 --json
    """
    if context.invoked_subcommand is not None:
        return
    asked = planning.problem(
        application=application,
        board=board,
        profile=profile,
        park_w=park_w,
        gpus=gpus,
        nodes=nodes,
        rate=rate,
        sla=sla,
        lambda_=lambda_,
        intensity=intensity,
        pue=pue,
        parking=parking,
        reserve=reserve,
        accuracy_floor=accuracy_floor,
        carbon_budget=carbon_budget,
    )
    if asked.goal != "lambda" and scheme not in _ASKABLE:
        raise ConfigurationError(
            f"--scheme = {scheme}: plans by --lambda only; with a floor or budget expected {', '.join(_ASKABLE)}"
        )
    from clover.plan.schemes import make_scheme  # noqa: PLC0415 - keeps --help fast

    with planning.clean_stdout():
        planner = make_scheme(scheme, seed=seed)
        started = time.perf_counter()
        answer = planner.plan(asked)
        late_upper = _late_upper(asked, answer, seed)
        solve_s = time.perf_counter() - started
    result = _result(answer, late_upper, solve_s)
    if as_json:
        print_json(result)
    else:
        _print(asked, answer, result)
    if not (answer.meets_sla and answer.asked_met):
        raise typer.Exit(_THRESHOLD_FAILED)


def _late_upper(asked: Problem, answer: Answer, seed: int) -> float | None:
    """Return the certified bound of P(late); plans of schemes that prove nothing are certified here."""
    from clover.core.objective import LATE_LIMIT  # noqa: PLC0415 - keeps --help fast
    from clover.core.queueing import idle_power_w  # noqa: PLC0415
    from clover.plan.certify import certify  # noqa: PLC0415
    from clover.plan.traffic import Traffic, agents_of  # noqa: PLC0415

    if answer.late_upper is not None or not answer.evaluation.stable:
        return answer.late_upper
    certificate = certify(
        asked.model,
        agents_of(answer.configuration, dict(answer.dispatch)),
        Traffic(rate_rps=asked.rate_rps),
        sla_ms=asked.sla_ms,
        idle_power_w=idle_power_w(asked.model, answer.configuration.fleet),
        limit=LATE_LIMIT,
        seed=seed,
    )
    return certificate.late_upper


def _result(answer: Answer, late_upper: float | None, solve_s: float) -> dict[str, Any]:
    from clover.core.objective import LATE_LIMIT  # noqa: PLC0415 - keeps --help fast

    fleet, seen = answer.configuration.fleet, answer.evaluation
    late = planning.finite(late_upper)
    return {
        "objective": answer.objective,
        "upper_bound": planning.finite(answer.upper_bound),
        "gap": planning.finite(answer.gap),
        "certified": late is not None and late <= LATE_LIMIT,
        "late_upper_pct": None if late is None else 100.0 * late,
        "p95_ms": planning.finite(seen.p95_ms),
        "accuracy_pct": seen.accuracy_pct,
        "energy_j_per_request": seen.energy_j_per_request,
        "solve_s": solve_s,
        "active_gpus": fleet.active,
        "parked_gpus": fleet.parked,
        "gpus": [
            {
                "node": gpu_id.node,
                "index": gpu_id.index,
                "mode": gpu.mode,
                "instances": [{"profile": kind.profile, "variant": kind.variant} for kind in gpu.instances],
            }
            for gpu_id, gpu in answer.configuration.gpus
        ],
        "dispatch": _dispatch(answer),
        "candidates_tried": answer.evaluations,
        "reason": answer.reason,
    }


def _dispatch(answer: Answer) -> dict[str, Any]:
    from clover.core.dispatch import DispatchRule  # noqa: PLC0415 - keeps --help fast

    nodes = sorted({gpu_id.node for gpu_id, gpu in answer.configuration.gpus if gpu.mode == "serving"})
    rules = {node: answer.dispatch.get(node, DispatchRule()) for node in nodes}
    return {
        node: {
            "rule": rule.name,
            "hold_back": rule.hold_back,
            "shares": {str(kind): share for kind, share in sorted(rule.shares.items())},
        }
        for node, rule in rules.items()
    }


def _print(asked: Problem, answer: Answer, result: dict[str, Any]) -> None:
    base, rightsized = _savings(asked, answer)
    what = {"lambda": "objective", "accuracy_floor": "J per request", "carbon_budget": "accuracy, %"}[asked.goal]
    rows = [
        ("GPUs", str(answer.configuration)),
        ("dispatch", ", ".join(f"{node}: {rule['rule']}" for node, rule in result["dispatch"].items())),
        ("objective", f"{answer.objective:.5f} at lambda {asked.lambda_:g}"),
        ("gap", f"{number(result['gap'], digits=6)} to the upper bound ({what})"),
        (
            "late",
            f"certified at most {number(result['late_upper_pct'], ' %', 2)}"
            if result["certified"]
            else "not certified",
        ),
        ("p95", f"{number(result['p95_ms'], ' ms', 0)} (SLA {asked.sla_ms:g} ms)"),
        ("accuracy", f"{answer.evaluation.accuracy_pct:.2f} % ({asked.model.application.accuracy_metric})"),
        ("energy", f"{answer.evaluation.energy_j_per_request:.2f} J per request, modelled"),
        ("saved", f"{base}, {rightsized} against right-sized BASE (both modelled)"),
        ("solved in", f"{result['solve_s']:.2f} s, {result['candidates_tried']} candidates tried"),
    ]
    planning.table(
        f"{asked.model.application.name}, {len(asked.gpus)} GPUs, {asked.rate_rps:g} requests/s, "
        f"{asked.intensity_g_per_kwh:g} gCO2e/kWh x PUE {asked.pue:g}",
        [("", False), ("", True)],
        rows,
    )
    tell(answer.reason)


def _savings(asked: Problem, answer: Answer) -> tuple[str, str]:
    from clover.core.objective import rightsized  # noqa: PLC0415 - keeps --help fast

    base = asked.baseline()
    small = rightsized(asked.model, asked.whole, len(asked.gpus), asked.rate_rps, asked.sla_ms)
    here = answer.evaluation.energy_j_per_request
    mark = "" if base.feasible else " (too late itself: not a fair comparison)"
    return (
        f"{100.0 * (1.0 - here / base.energy_j_per_request):.1f} % against BASE{mark}",
        f"{100.0 * (1.0 - here / small.energy_j_per_request):.1f} %",
    )
