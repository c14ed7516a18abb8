"""Writes the run folder of a command: begun before anything is started, ended however the command ends."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.output import tell
from clover.errors import CloverError

if TYPE_CHECKING:
    from clover.runs.folder import RunFolder
    from clover.runs.record import Hardware, InputFile, Origin, Setting, State

RunsDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir",
        help="Where the run folder is made (default: runs in the state folder).",
        envvar="CLOVER_RUNS",
        show_envvar=True,
    ),
]
RunName: TypeAlias = Annotated[
    str | None, typer.Option("--run-name", help="Name of the run folder (default: UTC time, command, token).")
]

_ORIGINS: dict[str, Origin] = {
    "COMMANDLINE": "flag",
    "ENVIRONMENT": "env",
    "DEFAULT_MAP": "file",
    "DEFAULT": "default",
    "PROMPT": "flag",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run folder is to say beside what the command line says.

    Attributes:
        command: `up`, `generate` or `experiment`.
        runs: Folder of runs; None: the default one.
        name: Given by the user.
        deployment: Name, None if there is none.
        seed: Of everything random.
        hardware: What serves.
        inputs: (what, path) of the files that it depends on.
    """

    command: str
    runs: Path | None
    name: str | None
    deployment: str | None
    seed: int | None
    hardware: Hardware
    inputs: Sequence[tuple[str, Path]] = ()


class Recording:
    """A run folder in the making."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.interrupted = False

    def summary(self, result: dict[str, Any]) -> None:
        """Write `summary.json`: what `--json` prints."""
        from clover.runs.folder import SUMMARY  # noqa: PLC0415 - keeps --help fast

        self.folder.write_json(SUMMARY, {"schema": 1, **result})


@contextmanager
def recorded(context: typer.Context, plan: RunPlan) -> Iterator[Recording]:
    """Make a run folder and say at the end how the command ended; says on standard error where it is.

    Raises:
        RunError: The folder cannot be made, and nothing has been started; or its end cannot be written.
    """
    recording = Recording(begin(context, plan))
    try:
        yield recording
    except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
        _end(recording, "interrupted")
        raise
    except BaseException as error:
        _end(recording, "failed", reason=_reason(error))
        raise
    recording.folder.finish("interrupted" if recording.interrupted else "finished", time.time() * 1e3)
    tell(f"run         {recording.folder.path}")
    tell("            next: clover runs show last, clover report last --open")


def begin(context: typer.Context, plan: RunPlan) -> RunFolder:
    """Make the run folder of a command."""
    from clover.agents.deployment import default_state_folder, process_started  # noqa: PLC0415 - keeps --help fast
    from clover.runs.folder import RunFolder, default_runs_folder, iso, run_name  # noqa: PLC0415
    from clover.runs.record import RunRecord  # noqa: PLC0415
    from clover.runs.surroundings import surroundings  # noqa: PLC0415

    now_ms = time.time() * 1e3
    state_folder = context.params.get("state_dir") or default_state_folder()
    record = RunRecord(
        run=plan.name or run_name(plan.command, now_ms, secrets.token_hex(3)),
        command=plan.command,
        started_at=iso(now_ms),
        started_ms=round(now_ms),
        deployment=plan.deployment,
        seed=plan.seed,
        settings=settings_of(context),
        inputs=_inputs(plan.inputs),
        hardware=plan.hardware,
        surroundings=surroundings(sys.argv[1:], os.environ),
        pid=os.getpid(),
        pid_started=process_started(os.getpid()),
    )
    return RunFolder.create(plan.runs or default_runs_folder(state_folder), record)


def settings_of(context: typer.Context) -> dict[str, Setting]:
    """Return every option of a command by its long name, with its value and who gave it."""
    from clover.runs.record import Setting  # noqa: PLC0415 - keeps --help fast

    settings: dict[str, Setting] = {}
    for parameter in context.command.params:
        if not parameter.name or parameter.name == "help":
            continue
        source = context.get_parameter_source(parameter.name)
        settings[max(parameter.opts, key=len).lstrip("-")] = Setting(
            value=_plain(context.params.get(parameter.name)), origin=_ORIGINS[source.name if source else "DEFAULT"]
        )
    return settings


def hardware(backend: str, board: str, gpus: Sequence[int]) -> Hardware:
    """Return what is to serve, before nodes have told of themselves."""
    from clover.runs.record import Hardware  # noqa: PLC0415 - keeps --help fast

    label = {"sim": "SIM", "cpu": "CPU", "nvml": "GPU"}.get(backend, "MODEL")
    return Hardware(
        label=label,
        backend=backend,
        gpu_model=board,
        gpus={f"n{number}": count for number, count in enumerate(gpus, start=1)},
    )


def carbon_files(*names: str) -> list[tuple[str, Path]]:
    """Return the files of carbon traces by name; constants have none."""
    from clover.catalog import trace_path  # noqa: PLC0415 - keeps --help fast

    paths = [(name, trace_path(name)) for name in names]
    return [(f"carbon trace {name}", path) for name, path in paths if path is not None]


def alive(pid: int, started: str) -> bool:
    """Return whether a process that a run folder names lives."""
    from clover.agents.deployment import process_started  # noqa: PLC0415 - keeps --help fast

    return bool(started) and process_started(pid) == started


def _inputs(files: Sequence[tuple[str, Path]]) -> tuple[InputFile, ...]:
    from clover.runs.surroundings import hashed  # noqa: PLC0415 - keeps --help fast

    return tuple(hashed(what, path) for what, path in files)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it, without passwords."""
    from clover.runs.surroundings import shown_value  # noqa: PLC0415 - keeps --help fast

    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return shown_value(value) if isinstance(value, str) else value


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _end(recording: Recording, state: State, *, reason: str = "") -> None:
    """End a run that did not end well; what goes wrong now must not hide what went wrong first."""
    try:
        recording.folder.finish(state, time.time() * 1e3, reason=reason)
    except CloverError as error:
        tell(f"warning: {error}")
