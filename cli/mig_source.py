"""Where the GPUs of `clover mig` come from (driver, helper, simulation), and options that its commands share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typer

from cli.output import tell

if TYPE_CHECKING:
    from mig.device import Gpu
    from mig.errors import MigError
    from mig.store import RecordStore

SourceName: TypeAlias = Literal["driver", "helper", "simulated"]
ResultT = TypeVar("ResultT")

Simulate: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--simulate",
        metavar="BOARD[:COUNT]",
        help="Simulated GPUs, such as a100-40gb:2; they live on in the state folder.",
    ),
]
Helper: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--helper",
        metavar="SOCKET",
        help="Have a running `clover mig helper` do what needs rights.",
        envvar="CLOVER_MIG_HELPER",
        show_envvar=True,
    ),
]
StateDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", help="Folder of simulated GPUs (see --simulate).", envvar="CLOVER_STATE_DIR", show_envvar=True
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and change nothing.")]
Allow: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="GPU/ID", help="Foreign instance that may be destroyed, such as 0/3; repeatable."),
]
AllowReset: TypeAlias = Annotated[
    bool, typer.Option("--allow-reset", help="Change the mode although the board resets itself for it.")
]
Gpus: TypeAlias = Annotated[list[str] | None, typer.Argument(metavar="[GPUS]...", help="Numbers, ranges or all.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which GPUs a command works on, as asked for."""

    simulate: str | None
    helper: Path | None
    state_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The GPUs of a host.

    Attributes:
        source: Where they come from.
        gpus: Themselves, by number.
        store: Where their records and locks are.
    """

    source: SourceName
    gpus: dict[int, Gpu]
    store: RecordStore

    def head(self) -> dict[str, Any]:
        """Fields that every JSON answer begins with."""
        return {"source": self.source, "simulated": self.source == "simulated"}

    def chosen(self, texts: list[str] | None) -> list[Gpu]:
        """Give the GPUs that are named; all if none is.

        Raises:
            InvalidGoalError: One is not there.
        """
        from mig.goal import ALL, parse_gpus  # noqa: PLC0415 - keeps --help fast

        return [self.gpus[index] for index in parse_gpus(",".join(texts or [ALL]), self.gpus)]


def run_on(source: Source, work: Callable[[Host], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Open the GPUs, do the work, close them."""

    async def opened() -> ResultT:
        async with _host(source) as host:
            return await work(host)

    return asyncio.run(opened())


async def for_each(gpus: list[Gpu], work: Callable[[Gpu], Awaitable[ResultT]]) -> list[tuple[Gpu, ResultT | MigError]]:
    """Do something on several GPUs at once; one that fails does not stop the others."""
    from mig.errors import MigError  # noqa: PLC0415 - keeps --help fast

    async def guarded(gpu: Gpu) -> ResultT | MigError:
        try:
            return await work(gpu)
        except MigError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(guarded(gpu), name=f"gpu{gpu.index}") for gpu in gpus]
    return [(gpu, task.result()) for gpu, task in zip(gpus, tasks, strict=True)]


@asynccontextmanager
async def _host(source: Source) -> AsyncIterator[Host]:
    from mig.store import FileStore  # noqa: PLC0415 - keeps --help fast

    # Simulation wins over a helper that the environment names: it can do no harm.
    if source.simulate is not None:
        yield _simulated(source.simulate, source.state_dir)
    elif source.helper is not None:
        from mig.helper_client import HelperDriver  # noqa: PLC0415

        async with HelperDriver(source.helper) as helper:
            yield _of("helper", await helper.gpus(), FileStore())
    else:
        from mig.nvml import NvmlDriver  # noqa: PLC0415

        async with NvmlDriver() as driver:
            gpus = await driver.gpus()
            for note in driver.notes:
                tell(f"left out: {note}")
            yield _of("driver", gpus, FileStore())


def _simulated(text: str, state_dir: Path | None) -> Host:
    from clover.agents.deployment import default_state_folder  # noqa: PLC0415 - keeps --help fast
    from mig.simulated_host import simulated_host  # noqa: PLC0415

    folder = (state_dir or default_state_folder()) / "mig-simulated"
    gpus, store = simulated_host(text, folder)
    tell(f"SIMULATED GPUs ({text}), kept in {folder}")
    return _of("simulated", gpus, store)


def _of(source: SourceName, gpus: tuple[Gpu, ...], store: RecordStore) -> Host:
    return Host(source=source, gpus={gpu.index: gpu for gpu in gpus}, store=store)


def error_fields(error: MigError | None) -> dict[str, Any]:
    """Describe an error in JSON; nulls if there is none."""
    if error is None:
        return {"error": None, "error_kind": None, "hint": None}
    return {"error": str(error), "error_kind": type(error).__name__.removesuffix("Error"), "hint": error.hint or None}


def tell_error(error: MigError) -> None:
    """Say an error on one line and its hint on another."""
    tell_fields(error_fields(error))


def tell_fields(row: Mapping[str, Any]) -> None:
    """Say the error of `error_fields` on one line and its hint on another; nothing if there is none."""
    if row["error"]:
        tell(f"clover: {row['error']}")
    if row["hint"]:
        tell(f"  hint: {row['hint']}")
