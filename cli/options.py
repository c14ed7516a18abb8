"""Options that several commands share, and the values that they mean."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from cli import completion
from cli.output import tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.agents.goals import Goals
    from clover.agents.metrics import Metrics
    from clover.plan.problem import Parking as ParkingMode

_UNITS_S = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Read a duration such as `20s`, `500ms`, `2m`, `1h` or `3600` (seconds); above 0."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text)
    if match is None or match[2] not in _UNITS_S:
        raise typer.BadParameter(f"{text!r} is not a duration such as 20s, 500ms, 2m or 1h")
    seconds = float(match[1]) * _UNITS_S[match[2]]
    if not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter(f"{text!r}: expected a duration above 0")
    return seconds


def option(name: str, text: str, complete: Callable[[str], list[str]] | None = None) -> typer.models.OptionInfo:
    """Return an option that the environment may give too, as `CLOVER_` and its name."""
    return typer.Option(name, help=text, envvar=_variable(name), autocompletion=complete)


def duration(name: str, text: str) -> typer.models.OptionInfo:
    """Return an option that takes a duration, which the environment may give too."""
    return typer.Option(name, parser=parse_duration, metavar="DURATION", help=text, envvar=_variable(name))


def _variable(name: str) -> str:
    return f"CLOVER_{name.removeprefix('--').replace('-', '_').upper()}"


Deployment: TypeAlias = Annotated[str, option("--deployment", "Name of the deployment.")]
Redis: TypeAlias = Annotated[
    str | None, typer.Option("--redis", help="Server URL, redis://, rediss:// or unix://.  [env var: CLOVER_REDIS]")
]
StateDir: TypeAlias = Annotated[Path | None, option("--state-dir", "Folder of state files, server data and logs.")]
Wait: TypeAlias = Annotated[
    float, typer.Option("--wait", parser=parse_duration, metavar="DURATION", help="Longest wait for the server.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
App: TypeAlias = Annotated[
    str, option("--app", "Application to serve: a name, or your own .toml file.", completion.applications)
]
Weights: TypeAlias = Annotated[
    str,
    option(
        "--weights",
        "Weights of real models: a folder, or random (true architecture, no real answers); default: published.",
    ),
]
Inputs: TypeAlias = Annotated[
    Path | None, option("--inputs", "What requests ask: a SQuAD 2.0 file, or a folder of pictures; default: samples.")
]
InputRoots: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--input-root",
        help="Folder or URL prefix below which requests may name an input instead of carrying it.",
        envvar="CLOVER_INPUT_ROOTS",
    ),
]
Backend: TypeAlias = Annotated[
    str,
    option(
        "--backend", "sim (times from tables), cpu (real models on cores) or nvml (real MIG GPUs).", completion.backends
    ),
]
Helper: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--helper", help="nvml: socket of `clover mig helper`, to need no rights.", envvar="CLOVER_MIG_HELPER"
    ),
]
Board: TypeAlias = Annotated[str, option("--gpu-model", "Board whose MIG rules hold.", completion.boards)]
Profile: TypeAlias = Annotated[Path | None, option("--profile", "Performance table to use instead of the shipped one.")]
Scheme: TypeAlias = Annotated[
    str,
    option("--scheme", "exact, clover, blover, co2opt, oracle, threshold, base, base_rightsized.", completion.schemes),
]
Lambda: TypeAlias = Annotated[float, option("--lambda", "Weight of carbon against accuracy, 0 to 1.")]
AccuracyFloor: TypeAlias = Annotated[
    float | None,
    option("--accuracy-floor", "Instead of --lambda: least carbon at this mean accuracy or more (scheme exact)."),
]
CarbonBudget: TypeAlias = Annotated[
    float | None,
    option(
        "--carbon-budget",
        "Instead of --lambda: highest accuracy within so many gCO2e per 1000 requests (scheme exact).",
    ),
]
Parking: TypeAlias = Annotated[
    str, option("--parking", "GPUs that are not needed: none, parked or off.", completion.parkings)
]
ParkW: TypeAlias = Annotated[float | None, option("--park-w", "Power of a parked GPU in W (default: the table's).")]
PowerOff: TypeAlias = Annotated[
    str,
    option("--power-off", "Command that switches a GPU off, which it finds in CLOVER_GPU_INDEX and CLOVER_GPU_UUID."),
]
PowerOn: TypeAlias = Annotated[str, option("--power-on", "Command that switches a GPU on again.")]
PowerLimit: TypeAlias = Annotated[float, duration("--power-limit", "Longest that such a command may take.")]
Reserve: TypeAlias = Annotated[int, option("--reserve", "Serving GPUs beyond those that the load needs.")]
Sla: TypeAlias = Annotated[
    str | None, option("--sla", "Promised p95 in ms, or a multiple of the table's such as 1.5x (default: 1x).")
]
Evaluate: TypeAlias = Annotated[
    str,
    option(
        "--evaluate", "How scheme clover judges candidates: by the model, or live on real traffic as the original did."
    ),
]
Faithful: TypeAlias = Annotated[
    bool, option("--faithful", "Judge candidates that miss the SLA exactly as the original.")
]
Trace: TypeAlias = Annotated[
    str, option("--trace", "Carbon trace: a name, a CSV file or constant:<gCO2e/kWh>.", completion.traces)
]
Hour: TypeAlias = Annotated[
    float, duration("--hour", "Real time that one hour of the trace lasts; scales nothing else.")
]
Pue: TypeAlias = Annotated[float, option("--pue", "Power usage effectiveness of the building, >= 1.")]
Rate: TypeAlias = Annotated[float | None, option("--rate", "Requests per second (default: BASE's own load).")]
Duration: TypeAlias = Annotated[float | None, duration("--duration", "How long requests become due.")]
MetricsPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Serve Prometheus metrics on this port of the loopback interface (0: any free one, which is told).",
        envvar="CLOVER_METRICS_PORT",
    ),
]
Seed: TypeAlias = Annotated[int, option("--seed", "Of everything random.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which deployment, on which server."""

    deployment: str
    redis: str | None
    state_folder: Path
    wait_s: float


def where(deployment: str, redis: str | None, state_dir: Path | None, wait_s: float = 0.0) -> Where:
    """Collect the options that say which deployment is meant."""
    from clover.agents.deployment import default_state_folder  # noqa: PLC0415 - keeps --help fast
    from clover.bus.key_names import checked_deployment  # noqa: PLC0415

    return Where(
        deployment=checked_deployment(deployment),
        redis=redis,
        state_folder=state_dir or default_state_folder(),
        wait_s=wait_s,
    )


def fleet(app: str, backend: str, board: str, profile: Path | None, park_w: float | None = None) -> Fleet:
    """Load what an application needs on a backend; every mismatch is a clear error."""
    from clover.agents.fleet import make_fleet, table_model  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import load_application, load_service  # noqa: PLC0415
    from clover.performance_tables import gpu_models_with_table  # noqa: PLC0415
    from mig.profiles import gpu_model  # noqa: PLC0415

    gpu_model(board)
    application = load_application(app)
    if backend == "cpu" and profile is None and application.servicer != "table":
        require_cpu_table(app, application.name)
    table = table_model(backend, board)
    if backend == "nvml" and profile is None and table not in gpu_models_with_table(application.name):
        # Better a plan from the wrong figures, and to say so, than none: whoever measures gives a table of his own.
        tell(f"no table of {app} on {board}: predictions use the CPU's (--profile FILE names a measured one)")
        table = "cpu"
    model = load_service(app, table, path=profile)
    if park_w is not None:
        if not (math.isfinite(park_w) and park_w >= 0.0):
            raise ConfigurationError(f"--park-w = {park_w}: expected a number of 0 or more")
        model = dataclasses.replace(model, table=dataclasses.replace(model.table, parked_power_w=park_w))
    return make_fleet(backend=backend, board=board, model=model)


def goals(
    fleet: Fleet,
    *,
    lambda_: float,
    sla: str | None,
    parking: str,
    reserve: int,
    accuracy_floor: float | None,
    carbon_budget: float | None,
    gpus: int,
) -> Goals:
    """Check what is asked of the planner; every value that cannot be is a clear error."""
    from clover.agents.goals import Goals  # noqa: PLC0415 - keeps --help fast

    check_goals(lambda_, 1.0)
    if parking not in {"none", "parked", "off"}:
        raise ConfigurationError(f"--parking = {parking}: expected none, parked or off")
    if not 0 <= reserve < gpus:
        raise ConfigurationError(f"--reserve = {reserve}: expected 0 to {gpus - 1} of {gpus} GPUs")
    if accuracy_floor is not None and carbon_budget is not None:
        raise ConfigurationError("--accuracy-floor and --carbon-budget: expected at most one of them")
    best = fleet.model.application.largest
    if accuracy_floor is not None and not accuracy_floor <= best.accuracy_pct:
        raise ConfigurationError(
            f"--accuracy-floor = {accuracy_floor:g}: expected at most {best.accuracy_pct:g}, "
            f"the accuracy of {best.name}, the best variant of {fleet.model.application.name}"
        )
    if carbon_budget is not None:
        check_positive("--carbon-budget", carbon_budget)
    return Goals(
        lambda_=lambda_,
        sla_ms=sla_of(sla, fleet),
        parking=cast("ParkingMode", parking),
        reserve=reserve,
        accuracy_floor_pct=accuracy_floor,
        carbon_budget_g=carbon_budget,
    )


def require_cpu_table(app: str, name: str) -> None:
    """Refuse an application that nobody has measured on a CPU yet, and say how to."""
    from clover.performance_tables import gpu_models_with_table  # noqa: PLC0415 - keeps --help fast

    if "cpu" not in gpu_models_with_table(name):
        raise ConfigurationError(
            f"application {name} has not been measured on a CPU yet: there is no performance table to plan with",
            hint=f"measure it: clover profile sweep --backend cpu --app {app} --out {name}.json; "
            f"then give --profile {name}.json",
        )


def check_positive(name: str, value: float) -> float:
    """Return a number above 0, or raise ConfigurationError."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} = {value}: expected a number above 0")
    return value


def sla_of(sla: str | None, fleet: Fleet) -> float:
    """Return the promised p95 in ms: the table's, a multiple of it (`1.5x`), or as given."""
    table_ms = fleet.model.table.sla_p95_ms
    if sla is None:
        return table_ms
    try:
        number = float(sla.removesuffix("x"))
    except ValueError:
        raise ConfigurationError(
            f"--sla = {sla!r}: expected milliseconds such as 200, or a multiple such as 1.5x"
        ) from None
    return check_positive("--sla", number) * (table_ms if sla.endswith("x") else 1.0)


def check_goals(lambda_: float, pue: float) -> None:
    """Raise ConfigurationError if a goal is out of range."""
    if not 0.0 <= lambda_ <= 1.0:
        raise ConfigurationError(f"--lambda = {lambda_}: expected a number from 0 to 1")
    if not (math.isfinite(pue) and pue >= 1.0):
        raise ConfigurationError(f"--pue = {pue}: expected a number of at least 1")


def host_name() -> str:
    """Return this host's name, for nodes that are not given one."""
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower()) or "node"


def unique_name() -> str:
    """Return a name that no other process has: host and pid."""
    return f"{host_name()}-{os.getpid()}"


def default_gpus(backend: str) -> int:
    """Return how many GPUs a node has unless told: one, or on the CPU a core each but for one."""
    return max(1, (os.cpu_count() or 2) - 1) if backend == "cpu" else 1


def rate_of(rate: float | None, gpus: int, fleet: Fleet) -> float:
    """Return the arrival rate in requests/s: as given, or BASE's own load."""
    if rate is None:
        return gpus * fleet.model.application.default_rate_rps_per_gpu
    return check_positive("--rate", rate)


def spread_gpus(gpus: int, nodes: int) -> tuple[int, ...]:
    """Spread GPUs over nodes as evenly as possible."""
    if nodes > gpus:
        raise ConfigurationError(f"--nodes = {nodes}: expected at most --gpus = {gpus}")
    return tuple(gpus // nodes + (1 if index < gpus % nodes else 0) for index in range(nodes))


@contextlib.contextmanager
def metrics(port: int | None, told: Metrics) -> Iterator[None]:
    """Serve an agent's metrics while the block runs, if a port was given, and say where."""
    from clover.agents.metrics import metrics_endpoint  # noqa: PLC0415 - only some agents have it

    with metrics_endpoint(port, told) as bound:
        if bound is not None:
            tell(f"metrics at http://127.0.0.1:{bound}/metrics")
        yield
