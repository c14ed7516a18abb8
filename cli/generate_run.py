"""One run of `clover generate`: the deployment, the generators, what is observed, and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cli import options, recording
from cli.archiving import archiving, present
from cli.connection import connected
from cli.generate_load import LoadSender, changed_order
from cli.generate_observing import observed, of_deployment
from cli.generate_text import print_load, print_trial, progress_bar
from cli.output import print_json, tell
from clover.agents.backoff import Backoff
from clover.agents.deployment import find_url
from clover.agents.find_max import find_max
from clover.agents.load_order import LoadOrder
from clover.agents.readiness import wait_until_serving
from clover.agents.system_clock import SystemClock
from clover.analysis.summary import RunSummary
from clover.core.criteria import judge
from clover.core.load_report import hgrm, load_figures
from clover.core.rate_search import RateSearch
from clover.core.tally import Tally
from clover.errors import NotReadyError

if TYPE_CHECKING:
    import typer

    from cli.generate import GenerateSettings
    from cli.recording import Recording
    from clover.bus.messages import PlanRecord
    from clover.bus.port import Bus

#: Exit code after Ctrl-C.
INTERRUPTED = 130
#: The plan must be in force after this long, unless --wait gives more.
READY_WITHIN_S = 60.0


class GenerateRun:
    """Runs one load test, or a search of several."""

    def __init__(self, context: typer.Context, settings: GenerateSettings) -> None:
        self._context = context
        self._settings = settings
        self._clock = SystemClock()
        self._stop = asyncio.Event()
        self._url = ""

    async def run(self) -> int:
        """Run it; return the exit code."""
        where = self._settings.where
        bus = await connected(where, "generate")
        try:
            self._url = find_url(where.redis, where.state_folder, where.deployment) or ""
            self._install_signals()
            plan = await self._serving(bus)
            if plan is None:
                return INTERRUPTED
            order = await self._order(bus, plan)
            with recording.recorded(self._context, await self._run_plan(bus, plan)) as run:
                code = await self._run_recorded(bus, plan, order, run)
                run.interrupted = self._stop.is_set()
                return code
        finally:
            await bus.close()

    async def _run_recorded(self, bus: Bus, plan: PlanRecord, order: LoadOrder, run: Recording) -> int:
        settings = self._settings
        head = {
            "arrivals": order.load().description,
            "deployment": settings.where.deployment,
            "application": plan.application,
            "producers": [part.name for part in order.parts(settings.processes)],
            "seed": settings.seed,
            "processes": settings.processes,
            "warmup_s": order.warmup_s,
        }
        if settings.promise is not None:
            result = head | {"find_max": await self._search(bus, plan, order)}
            code = 0 if result["find_max"]["max_rate_rps"] is not None else 10
        else:
            result, code = await self._one(bus, plan, order, run, head)
        if self._stop.is_set():
            # Whatever was to be judged was not seen to its end.
            code = INTERRUPTED
        told = result | {"interrupted": self._stop.is_set(), "run": str(run.folder.path)}
        if settings.as_json:
            print_json(told)
        else:
            print_load(told)
        run.summary(told)
        return code

    # --- one load test

    async def _one(
        self, bus: Bus, plan: PlanRecord, order: LoadOrder, run: Recording, head: dict[str, Any]
    ) -> tuple[dict[str, Any], int]:
        from clover.runs.folder import LATENCIES, REQUESTS  # noqa: PLC0415

        kept = str(run.folder.path / REQUESTS) if self._settings.keep_requests else None
        order = changed_order(order, requests_file=kept)
        summary = RunSummary(sla_p95_ms=plan.sla_p95_ms)
        async with self._archive(bus, plan, run) as troubles:
            with progress_bar(order) as advance:
                load, complete = await observed(
                    self._settings.where, plan, summary, lambda: self._sender(bus).send(order, advance)
                )
        closed = order.arrivals.concurrency > 0
        figures = load_figures(load.tally, sla_p95_ms=plan.sla_p95_ms, closed=closed)
        figures |= of_deployment(summary, complete=complete)
        run.folder.write(LATENCIES, hgrm(load.tally.latencies, closed=closed).encode())
        return self._judged(head | figures | {"troubles": [*load.troubles, *troubles]})

    def _archive(self, bus: Bus, plan: PlanRecord, run: Recording) -> contextlib.AbstractAsyncContextManager[list[str]]:
        """Archive the deployment's tables into the run's folder meanwhile, unless that is not wanted."""
        from clover.analysis.load import ARCHIVE  # noqa: PLC0415 - keeps --help fast

        if not self._settings.archive:
            return contextlib.nullcontext([])
        where = self._settings.where
        return archiving(
            run.folder.path / ARCHIVE,
            deployment=where.deployment,
            after=lambda: present(bus, plan),
            environment={"CLOVER_REDIS": self._url, "CLOVER_STATE_DIR": str(where.state_folder)},
        )

    def _judged(self, result: dict[str, Any]) -> tuple[dict[str, Any], int]:
        judged = [judge(condition, result) for condition in self._settings.fail_if]
        conditions = [
            {
                "fail_if": one.condition.text,
                # Infinity is no JSON number.
                "value": None if one.value == float("inf") else one.value,
                "limit": one.condition.limit,
                "failed": one.holds is not False,
                "reason": one.why,
            }
            for one in judged
        ]
        refused = bool(judged) and result["verdict"] == "refused"
        failed = refused or any(condition["failed"] for condition in conditions)
        lost = result["requests"]["lost"] > 0
        return result | {"conditions": conditions, "failed": failed}, 10 if failed else 11 if lost else 0

    # --- a search

    async def _search(self, bus: Bus, plan: PlanRecord, order: LoadOrder) -> dict[str, Any]:
        promise = self._settings.promise
        if promise is None:
            raise AssertionError("asked for by --find-max")
        sender = self._sender(bus)

        async def trial(one: LoadOrder, enough: Callable[[Tally], bool]) -> Tally:
            if await self._serving(bus) is None:
                return Tally()
            with progress_bar(one) as advance:
                return (await sender.send(one, lambda tally: advance(tally) or enough(tally))).tally

        return await find_max(
            order,
            RateSearch(first_rps=order.arrivals.rate_rps, tolerance=self._settings.tolerance),
            promise,
            samples=self._settings.samples or promise.samples,
            sla_ms=plan.sla_p95_ms,
            run=trial,
            tell=print_trial,
            stopped=self._stop.is_set,
        )

    # --- the deployment

    def _sender(self, bus: Bus) -> LoadSender:
        return LoadSender(bus, url=self._url, processes=self._settings.processes, clock=self._clock, stop=self._stop)

    async def _serving(self, bus: Bus) -> PlanRecord | None:
        """Return the plan in force, waiting for it; None if somebody stops that."""
        from random import Random  # noqa: PLC0415

        within_s = max(READY_WITHIN_S, self._settings.where.wait_s)
        try:
            async with asyncio.timeout(within_s):
                plan = await wait_until_serving(
                    bus,
                    # Telemetry comes every second; what was not heard for longer may be of an earlier run.
                    seen_after_ms=self._clock.now_ms() - 10_000.0,
                    block_s=1.0,
                    backoff=Backoff(Random()),  # noqa: S311 - jitter
                    stop=self._stop,
                )
        except TimeoutError:
            raise NotReadyError(
                f"deployment {self._settings.where.deployment!r} did not serve within {within_s:g} s",
                hint="`clover status` tells what it is doing",
            ) from None
        return plan

    async def _order(self, bus: Bus, plan: PlanRecord) -> LoadOrder:
        settings, chosen = self._settings, self._settings.arrivals
        backends = {state.backend for state in (await bus.node_states()).values()}
        order = LoadOrder(
            deployment=settings.where.deployment,
            name=f"generator-{options.unique_name()}-{os.urandom(2).hex()}",
            application=plan.application,
            backend="sim" if backends <= {"sim"} else min(backends - {"sim"}),
            app=settings.app,
            inputs=str(settings.inputs.resolve()) if settings.inputs else None,
            arrivals=chosen.arrivals(
                rate_rps=settings.rate_rps or plan.prediction.rate_rps,
                duration_s=settings.duration_s,
                concurrency=settings.concurrency,
            ),
            trace=str(chosen.trace.resolve()) if chosen.trace else None,
            mix=settings.mix,
            seed=settings.seed,
            warmup_s=settings.warmup_s,
            duration_s=settings.duration_s,
            count=settings.count,
        )
        load = order.load()
        if load.mean_rps is not None and load.trace is not None and order.of == 1:
            tell(f"arrivals    {load.description}: {load.mean_rps:.4g} requests/s on average")
        return order

    async def _run_plan(self, bus: Bus, plan: PlanRecord) -> recording.RunPlan:
        import msgspec  # noqa: PLC0415

        settings = self._settings
        nodes = dict(sorted((await bus.node_states()).items()))
        backend = next((node.backend for node in nodes.values()), "sim")
        hardware = recording.hardware(backend, plan.gpu_model, [])
        return recording.RunPlan(
            command="generate",
            runs=settings.runs_dir,
            name=settings.run_name,
            deployment=settings.where.deployment,
            seed=settings.seed,
            hardware=msgspec.structs.replace(
                hardware,
                gpus={name: len(node.gpus) for name, node in nodes.items()},
                uuids={name: tuple(gpu.uuid for gpu in node.gpus) for name, node in nodes.items()},
            ),
            inputs=settings.arrivals.files,
        )

    def _install_signals(self) -> None:
        """First signal: no new requests, let the rest finish. Second: end at once."""
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()

        def on_signal() -> None:
            if self._stop.is_set() and main is not None:
                tell("stopping now: there is no account of this run")
                main.cancel()
                return
            self._stop.set()
            tell("stopping: requests in work are finished; Ctrl-C again stops at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
