"""Options that several commands share; which fleet and goals they describe is told by `cli.fleets` and `cli.goals`."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli import completion
from cli.output import tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.metrics import Metrics

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


def check_positive(name: str, value: float) -> float:
    """Return a number above 0, or raise ConfigurationError."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} = {value}: expected a number above 0")
    return value


def host_name() -> str:
    """Return this host's name, for nodes that are not given one."""
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower()) or "node"


def unique_name() -> str:
    """Return a name that no other process has: host and pid."""
    return f"{host_name()}-{os.getpid()}"


@contextlib.contextmanager
def metrics(port: int | None, told: Metrics) -> Iterator[None]:
    """Serve an agent's metrics while the block runs, if a port was given, and say where."""
    from clover.agents.metrics import metrics_endpoint  # noqa: PLC0415 - only some agents have it

    with metrics_endpoint(port, told) as bound:
        if bound is not None:
            tell(f"metrics at http://127.0.0.1:{bound}/metrics")
        yield
