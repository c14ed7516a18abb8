"""Options that several commands share, and the values that they mean."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.output import tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.assembly import Fleet
    from clover.agents.survivors import WorkerRecord
    from clover.serving.port import Servicer

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


def _option(*names: str, text: str, env: str) -> typer.models.OptionInfo:
    return typer.Option(*names, help=text, envvar=env, show_envvar=True)


Deployment: TypeAlias = Annotated[str, _option("--deployment", text="Name of the deployment.", env="CLOVER_DEPLOYMENT")]
Redis: TypeAlias = Annotated[
    str | None, typer.Option("--redis", help="Server URL, redis://, rediss:// or unix://.  [env var: CLOVER_REDIS]")
]
StateDir: TypeAlias = Annotated[
    Path | None, _option("--state-dir", text="Folder of state files, server data and logs.", env="CLOVER_STATE_DIR")
]
Wait: TypeAlias = Annotated[
    float,
    typer.Option("--wait", parser=parse_duration, metavar="DURATION", help="Longest wait for the server."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
App: TypeAlias = Annotated[
    str, _option("--app", text="Application to serve: a name, or your own .toml file.", env="CLOVER_APP")
]
Weights: TypeAlias = Annotated[
    str,
    _option(
        "--weights",
        text="Weights of real models: a folder, or random (true architecture, no real answers); default: published.",
        env="CLOVER_WEIGHTS",
    ),
]
Inputs: TypeAlias = Annotated[
    Path | None,
    _option(
        "--inputs",
        text="What requests ask: a SQuAD 2.0 file, or a folder of pictures; default: samples.",
        env="CLOVER_INPUTS",
    ),
]
InputRoots: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "--input-root",
        text="Folder or URL prefix below which requests may name an input instead of carrying it.",
        env="CLOVER_INPUT_ROOTS",
    ),
]
Backend: TypeAlias = Annotated[
    str,
    _option(
        "--backend",
        text="sim (times from tables), cpu (real models on cores) or nvml (real MIG GPUs).",
        env="CLOVER_BACKEND",
    ),
]
Helper: TypeAlias = Annotated[
    Path | None,
    _option("--helper", text="nvml: socket of `clover mig helper`, to need no rights.", env="CLOVER_MIG_HELPER"),
]
Board: TypeAlias = Annotated[str, _option("--gpu-model", text="Board whose MIG rules hold.", env="CLOVER_GPU_MODEL")]
Profile: TypeAlias = Annotated[
    Path | None, _option("--profile", text="Performance table to use instead of the shipped one.", env="CLOVER_PROFILE")
]
Scheme: TypeAlias = Annotated[
    str, _option("--scheme", text="Planning scheme: base, co2opt, blover, clover.", env="CLOVER_SCHEME")
]
Lambda: TypeAlias = Annotated[
    float, _option("--lambda", text="Weight of carbon against accuracy, 0 to 1.", env="CLOVER_LAMBDA")
]
Sla: TypeAlias = Annotated[
    str | None,
    _option(
        "--sla", text="Promised p95 in ms, or a multiple of the table's such as 1.5x (default: 1x).", env="CLOVER_SLA"
    ),
]
Faithful: TypeAlias = Annotated[
    bool,
    _option("--faithful", text="Judge candidates that miss the SLA exactly as the original.", env="CLOVER_FAITHFUL"),
]
Trace: TypeAlias = Annotated[
    str, _option("--trace", text="Carbon trace: a name, a CSV file or constant:<gCO2e/kWh>.", env="CLOVER_TRACE")
]
Hour: TypeAlias = Annotated[
    float,
    typer.Option(
        "--hour",
        parser=parse_duration,
        metavar="DURATION",
        help="Real time that one hour of the trace lasts; scales nothing else.",
        envvar="CLOVER_HOUR",
    ),
]
Pue: TypeAlias = Annotated[
    float, _option("--pue", text="Power usage effectiveness of the building, >= 1.", env="CLOVER_PUE")
]
Rate: TypeAlias = Annotated[
    float | None, _option("--rate", text="Requests per second (default: BASE's own load).", env="CLOVER_RATE")
]
Duration: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--duration",
        parser=parse_duration,
        metavar="DURATION",
        help="How long requests become due.",
        envvar="CLOVER_DURATION",
    ),
]
Seed: TypeAlias = Annotated[int, _option("--seed", text="Of everything random.", env="CLOVER_SEED")]


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
    from clover.bus.keys import checked_deployment  # noqa: PLC0415

    return Where(
        deployment=checked_deployment(deployment),
        redis=redis,
        state_folder=state_dir or default_state_folder(),
        wait_s=wait_s,
    )


def fleet(app: str, backend: str, board: str, profile: Path | None) -> Fleet:
    """Load what an application needs on a backend; every mismatch is a clear error."""
    from clover.agents.assembly import make_fleet, table_model  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import gpu_models_with_table, load_application, load_service  # noqa: PLC0415
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
    return make_fleet(backend=backend, board=board, model=load_service(app, table, path=profile))


def require_cpu_table(app: str, name: str) -> None:
    """Refuse an application that nobody has measured on a CPU yet, and say how to."""
    from clover.catalog import gpu_models_with_table  # noqa: PLC0415 - keeps --help fast

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


def inputs_of(fleet: Fleet, path: Path | None = None) -> Sequence[tuple[str, bytes]]:
    """Return what requests carry: samples or the user's inputs for real models, nothing for simulated ones."""
    if fleet.backend == "sim":
        return (("application/octet-stream", b""),)
    from clover.serving.inputs import inputs_for  # noqa: PLC0415 - only real models need it

    return inputs_for(fleet.model.application, path)


def process_servicer(
    record: WorkerRecord | None,
    fleet: Fleet,
    *,
    app: str,
    weights: str = "",
    log_folder: Path | None = None,
    input_roots: Sequence[str] | None = None,
) -> Callable[[], Servicer]:
    """Return a maker of the servicer that runs real models, on MIG devices if that is the backend.

    With a record it records its workers there.
    """
    from clover.agents.survivors import RecordingServicer  # noqa: PLC0415 - only real models need it
    from clover.catalog import load_recipes  # noqa: PLC0415
    from clover.core.outcome import default_deadline_s  # noqa: PLC0415
    from clover.serving.process import ProcessServicer  # noqa: PLC0415
    from clover.serving.worker import WorkerSettings  # noqa: PLC0415

    recipes = load_recipes(app, weights)
    # What has not answered by the deadline of its request never will.
    request_s = max(WorkerSettings().request_s, default_deadline_s(fleet.model.table.sla_p95_ms))
    if log_folder is not None:
        log_folder.mkdir(parents=True, exist_ok=True)

    def table_j(variant: str) -> float:
        return fleet.model.dynamic_j(variant, 0.0)

    def make() -> Servicer:
        servicer = ProcessServicer(
            recipes=recipes,
            settings=WorkerSettings(request_s=request_s),
            log_folder=log_folder,
            input_roots=input_roots or (),
            table_j=table_j if fleet.backend == "nvml" else None,
        )
        return servicer if record is None else RecordingServicer(servicer, record)

    return make


def absolute_app(app: str) -> str:
    """Return an application as every process understands it: a name, or the absolute path of a file."""
    return str(Path(app).resolve()) if app.endswith(".toml") else app


def tell_weights(weights: str) -> None:
    """Say aloud that answers of random weights mean nothing."""
    if weights == "random":
        tell("random weights: cost and timing are real, answers mean nothing; accuracies are the published ones")


def spread_gpus(gpus: int, nodes: int) -> tuple[int, ...]:
    """Spread GPUs over nodes as evenly as possible."""
    if nodes > gpus:
        raise ConfigurationError(f"--nodes = {nodes}: expected at most --gpus = {gpus}")
    return tuple(gpus // nodes + (1 if index < gpus % nodes else 0) for index in range(nodes))


#: Resident memory of one worker process with its model, MB (about 330 measured).
WORKER_MB = 400


def worker_mb(app: str) -> int:
    """Return the resident memory of one worker of an application, MB: that of any, and its weights in 32 bits."""
    from clover.catalog import load_recipes  # noqa: PLC0415 - keeps --help fast

    return WORKER_MB + max(recipe.parameters for recipe in load_recipes(app).values()) * 4 // 10**6


def check_memory(*, workers: int, each_mb: int = WORKER_MB) -> None:
    """Refuse more worker processes than free memory holds (Linux; elsewhere it cannot be told)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free_mb = next((int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:")), None)
    if free_mb is not None and workers * each_mb > free_mb:
        raise ConfigurationError(
            f"up to {workers} workers x {each_mb} MB exceed the free memory of {free_mb} MB",
            hint="give fewer GPUs with --gpus",
        )
