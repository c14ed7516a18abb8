"""Serving real models: one worker process per instance, held back to its share of a core."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clover.serving.framing import Start
from clover.serving.port import InstanceSpec, ServingError
from clover.serving.recipe import Recipe
from clover.serving.worker import TABLE_SOURCE, TDP_SOURCE, ProcessWorker
from clover.serving.worker_process import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The program of a worker; the name of the instance is appended for the process list.
TORCH_WORKER: Final = (sys.executable, "-X", "faulthandler", "-m", "clover.serving.torch_worker")

_ROOT: Final = Path(__file__).resolve().parents[2]


class ProcessServicer:
    """Starts worker processes; implements `clover.serving.port.Servicer`.

    Energy is an estimate, processor seconds x watts per core, because most machines that have no GPU do not
    let their users read a meter either.

    Args:
        command: Program of the worker and its arguments.
        settings: Time limits and the power of a core.
        recipes: How to load each variant, by its name; without them the program must know by itself.
        log_folder: Where what workers write to stderr is kept, a file each; None keeps only the last lines.
        input_roots: Folders and URL prefixes below which requests may name an input instead of carrying it.
        cores: Cores of each GPU by its index, which its workers are kept on; empty: any.
        table_j: Dynamic energy of a request by variant, J, by the performance table. If given, instances are MIG
            devices: workers compute there, and where they cannot they say so (`Worker.fallback`) and use the CPU. A
            GPU's energy cannot be read per instance, so this estimate is what a request is said to have taken.
        batch_size: Most requests that a worker is asked to answer together.
        sample: Content type and payload of an input, to time a full batch with.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] = TORCH_WORKER,
        settings: WorkerSettings | None = None,
        recipes: Mapping[str, Recipe] | None = None,
        log_folder: Path | None = None,
        input_roots: Sequence[str] = (),
        cores: Sequence[tuple[int, ...]] = (),
        table_j: Callable[[str], float] | None = None,
        batch_size: int = 1,
        sample: tuple[str, bytes] = ("", b""),
    ) -> None:
        self._command = tuple(command)
        self._settings = settings or WorkerSettings()
        self._recipes = recipes
        self._log_folder = log_folder
        self._input_roots = tuple(input_roots)
        self._cores = tuple(cores)
        self._table_j = table_j
        self._batch_size = batch_size
        self._sample = sample
        self._workers: set[ProcessWorker] = set()
        self._closed = False

    @property
    def energy_source(self) -> str:
        """Sources of the living workers' figures, joined by "+"; `estimate:tdp` for all that compute on the CPU."""
        if self._table_j is None:
            return TDP_SOURCE
        sources = {worker.energy_source for worker in self._workers if not worker.ended}
        return "+".join(sorted(sources)) or TABLE_SOURCE

    async def start(self, spec: InstanceSpec) -> ProcessWorker:
        """Start a process and wait until it is warm (`clover.serving.port.Servicer`); many may at once."""
        if self._closed:
            raise ServingError(f"{spec.name} cannot start: the node is closing")
        recipe = self._recipe(spec)
        process = await self._spawn(spec)
        worker = ProcessWorker(spec, process, self._settings, self._table_j, log=self._log(spec))
        self._forget_ended()
        self._workers.add(worker)
        if self._closed:
            await worker.stop()
        await worker.get_ready(
            Start(
                recipe=recipe,
                fraction=spec.fraction,
                device=spec.device if self._table_j is not None else "",
                memory_mib=spec.memory_mib,
                multiprocessors=spec.multiprocessors,
                input_roots=self._input_roots,
                cpus=self._cores[spec.gpu] if spec.gpu < len(self._cores) else (),
                batch_size=self._batch_size,
                sample_type=self._sample[0],
                sample=self._sample[1],
            )
        )
        return worker

    async def close(self) -> None:
        """Stop all workers at once, those still starting included; idempotent."""
        self._closed = True
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.stop(), name=f"stop {worker.spec.name}")
        self._workers.clear()

    async def _spawn(self, spec: InstanceSpec) -> asyncio.subprocess.Process:
        """Start the program without waiting for it to load anything."""
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                spec.name,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment(spec),
                # Ctrl-C in a terminal is for the agent, which stops its workers in good order.
                start_new_session=True,
            )
        except OSError as exc:
            raise ServingError(f"the worker of {spec.name} cannot be started: {exc}") from exc

    def _recipe(self, spec: InstanceSpec) -> Recipe:
        if self._recipes is None:
            return Recipe(application=spec.application, family="table", variant=spec.variant)
        recipe = self._recipes.get(spec.variant)
        if recipe is None or recipe.application != spec.application:
            known = ", ".join(f"{r.application}/{r.variant}" for r in self._recipes.values())
            raise ServingError(f"{spec.application} has no variant {spec.variant!r} here", hint=f"there are: {known}")
        return recipe

    def _log(self, spec: InstanceSpec) -> Path | None:
        if self._log_folder is None:
            return None
        return self._log_folder / f"worker-{spec.name.replace('/', '-')}.log"

    def _forget_ended(self) -> None:
        self._workers = {worker for worker in self._workers if not worker.ended}

    def _environment(self, spec: InstanceSpec) -> dict[str, str]:
        """Return the environment of this process with what must hold before a worker imports torch."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            # Threads that wait actively would take the core from the other instances.
            "OMP_WAIT_POLICY": "PASSIVE",
            "CUDA_VISIBLE_DEVICES": spec.device if self._table_j is not None else "",
        }
        if _ROOT.name not in {"site-packages", "dist-packages"}:
            # A checkout that is not installed is on sys.path of this process, which a child does not inherit.
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        return environment
