"""What commands do about real models: their servicer, inputs and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.agents.survivors import WorkerRecord
    from clover.serving.port import Servicer

#: Resident memory of one worker process with its model, MB (about 330 measured).
WORKER_MB = 400


def inputs_of(fleet: Fleet, path: Path | None = None) -> Sequence[tuple[str, bytes]]:
    """Return what requests carry: samples or the user's inputs for real models, nothing for simulated ones."""
    if fleet.backend == "sim":
        return (("application/octet-stream", b""),)
    from clover.serving.availability import require_models  # noqa: PLC0415 - only real models need it
    from clover.serving.inputs import inputs_for  # noqa: PLC0415

    require_models(fleet.model.application.servicer)
    return inputs_for(fleet.model.application, path)


def process_servicer(
    record: WorkerRecord | None,
    fleet: Fleet,
    *,
    app: str,
    weights: str = "",
    log_folder: Path | None = None,
    input_roots: Sequence[str] | None = None,
    gpus: int = 0,
    first_core: int = 1,
    batch_size: int = 1,
) -> Callable[[], Servicer]:
    """Return a maker of the servicer that runs real models, on MIG devices if that is the backend.

    With a record it records its workers there. On the CPU each of `gpus` emulated GPUs has a core, from the
    `first_core` on. Workers answer at most `batch_size` requests together, and time that with a sample when they load.
    """
    from clover.agents.survivors import RecordingServicer  # noqa: PLC0415 - only real models need it
    from clover.catalog import load_recipes  # noqa: PLC0415
    from clover.core.outcome import default_deadline_s  # noqa: PLC0415
    from clover.serving.pinning import cores_of_gpus  # noqa: PLC0415
    from clover.serving.process import ProcessServicer  # noqa: PLC0415
    from clover.serving.worker_process import WorkerSettings  # noqa: PLC0415

    recipes = load_recipes(app, weights)
    # What has not answered by the deadline of its request never will.
    request_s = default_deadline_s(fleet.model.table.sla_p95_ms)
    if log_folder is not None:
        log_folder.mkdir(parents=True, exist_ok=True)

    sample = inputs_of(fleet)[0] if batch_size > 1 else ("", b"")

    def table_j(variant: str) -> float:
        return fleet.model.dynamic_j(variant, 0.0)

    def make() -> Servicer:
        servicer = ProcessServicer(
            recipes=recipes,
            settings=WorkerSettings(request_s=request_s),
            log_folder=log_folder,
            input_roots=input_roots or (),
            cores=cores_of_gpus(gpus, first=first_core) if fleet.backend == "cpu" else (),
            table_j=table_j if fleet.backend == "nvml" else None,
            batch_size=batch_size,
            sample=sample,
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
