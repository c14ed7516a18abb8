"""One run of `clover up`: the processes, what is observed of them, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from cli.archiving import ARCHIVE, archive_spec, keep_archive
from cli.doctor import require_fit
from cli.following import follow_into
from cli.output import tell
from cli.up_children import CONTROLLER, GENERATOR, UpChildren
from cli.up_dashboard import UpDashboard
from clover.agents.backoff import Backoff
from clover.agents.deployment import claim_state, given_url, release_state
from clover.agents.lifetime import happens_within
from clover.agents.readiness import wait_until_serving
from clover.agents.runtime import check_state_folder
from clover.agents.supervisor import ChildFailedError, ChildSpec, Supervisor
from clover.agents.system_clock import SystemClock
from clover.analysis.summary import RunSummary
from clover.analysis.view import DeploymentView
from clover.bus.address import has_password
from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import Event, NodeTelemetry
from clover.bus.port import Bus
from clover.bus.redis import connect
from clover.bus.values import Feed
from clover.errors import BusUnavailableError, CloverError, NotReadyError

if TYPE_CHECKING:
    from pathlib import Path

    from cli.up_settings import UpSettings
    from clover.runs.record import Hardware

#: Everything must serve after this long, start-up of workers and first plan included.
READY_WITHIN_S = 180.0

#: After the last answer the ledger has this long to catch up.
LEDGER_WITHIN_S = 15.0

#: While the server is away a notice is tried again this often.
NOTICE_RETRY_S = 0.5
#: Notices that are kept while the server is away; the newest win.
MAX_NOTICES = 1000


class UpSession:
    """Runs a deployment and folds what it does into a summary.

    Args:
        settings: What was asked for.
        archive: Folder for the run's tables; None writes none.
    """

    def __init__(self, settings: UpSettings, *, archive: Path | None = None) -> None:
        self._settings = settings
        self._archive = archive
        self._clock = SystemClock()
        self._summary = RunSummary(sla_p95_ms=settings.goals.sla_ms)
        self._view = DeploymentView(self._summary)
        self._stop = asyncio.Event()
        self._over = asyncio.Event()
        self._started = asyncio.Event()
        self._complete = asyncio.Event()
        self._failure: CloverError | None = None
        #: Whether somebody did not let the requests in work finish.
        self.interrupted = False
        self._server: EmbeddedServer | None = None
        self._dashboard: UpDashboard | None = None
        self._notices: asyncio.Queue[Event] = asyncio.Queue(MAX_NOTICES)
        self._generating_since_s: float | None = None
        self._children = UpChildren(settings, generated_s=self._generated_s)
        self._nodes: dict[str, NodeTelemetry] = {}

    async def run(self) -> dict[str, Any]:
        """Run until the duration is over or somebody stops it; return the summary."""
        where = self._settings.where
        folder = check_state_folder(where.state_folder)
        given = given_url(where.redis)
        if where.redis and has_password(where.redis):
            tell("warning: every user of this host can see the password in --redis; use CLOVER_REDIS_PASSWORD_FILE")
        claim_state(folder, where.deployment, url=given or "", owner="up")
        try:
            async with contextlib.AsyncExitStack() as stack:
                url = given or await self._start_server(stack)
                claim_state(folder, where.deployment, url=url, owner="up")
                bus = connect(url, where.deployment, "up")
                stack.push_async_callback(bus.close)
                await bus.ping()
                await require_fit(url, durable=self._settings.require_durable)
                await self._run_on(bus, url)
        finally:
            release_state(folder, where.deployment)
        if self._failure is not None:
            raise self._failure
        return {**self._summary.result(), "batching": self._settings.batching}

    def hardware(self, planned: Hardware) -> Hardware:
        """Return what served, as far as nodes have told of themselves."""
        uuids = {name: tuple(gpu.uuid for gpu in node.gpus) for name, node in sorted(self._nodes.items())}
        return msgspec.structs.replace(planned, gpus={n: len(u) for n, u in uuids.items()} or planned.gpus, uuids=uuids)

    async def _start_server(self, stack: contextlib.AsyncExitStack) -> str:
        """Start the embedded server on empty data: a new `up` is a new run."""
        data = self._settings.where.state_folder / self._settings.where.deployment / "server"
        await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)
        self._server = await stack.enter_async_context(EmbeddedServer(data))
        return self._server.url

    # --- the run

    async def _run_on(self, bus: Bus, url: str) -> None:
        where = self._settings.where
        logs = where.state_folder / where.deployment / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        environment = {"CLOVER_REDIS": url, "CLOVER_STATE_DIR": str(where.state_folder)}
        supervisor = Supervisor(
            environment={**self._settings.environment, **environment}, log_folder=logs, tell=self._notice
        )
        self._install_signals(supervisor)
        cursors = {feed: await bus.newest_id(feed) for feed in Feed}
        self._dashboard = UpDashboard(
            where.deployment, environment=environment, cursors=cursors, show=self._settings.dashboard
        )
        try:
            async with asyncio.TaskGroup() as group:
                observers = [
                    group.create_task(
                        follow_into(bus, self._view, asyncio.Event(), cursors=dict(cursors), seen=self._note_progress)
                    ),
                    group.create_task(self._publish_notices(bus)),
                    group.create_task(self._dashboard.run(lambda: self._view, self._stop)),
                ]
                if not self._settings.own_load:
                    observers.append(group.create_task(self._serve(bus)))
                if self._server is not None:
                    observers.append(group.create_task(self._server.keep_running(self._server_notice)))
                if self._archive is not None:
                    spec = archive_spec(where.deployment, self._archive, cursors)
                    group.create_task(keep_archive(supervisor, spec, partial(self._notice, "archive.failed", ARCHIVE)))
                for spec in self._children.specs():
                    group.create_task(self._keep(supervisor, spec))
                await self._until_over()
                with contextlib.suppress(BusUnavailableError):
                    self._nodes = await bus.node_states()
                await self._wind_down(supervisor)
                for observer in observers:
                    observer.cancel()
        finally:
            supervisor.kill_all()

    async def _keep(self, supervisor: Supervisor, spec: ChildSpec) -> None:
        try:
            await supervisor.keep(spec)
        except ChildFailedError as error:
            self._failure = self._failure or error
            self._over.set()
        if spec.name == GENERATOR:
            self._over.set()

    async def _serve(self, bus: Bus) -> None:
        """Serve what others send until the duration, counted from readiness, is over."""
        backoff = Backoff(Random())  # noqa: S311 - jitter
        ready = await wait_until_serving(bus, seen_after_ms=0.0, block_s=1.0, backoff=backoff, stop=self._stop)
        if ready is None:
            return
        self._started.set()
        deployment = self._settings.where.deployment
        tell(f"ready: clover generate{'' if deployment == 'clover' else f' --deployment {deployment}'}")
        if self._settings.duration_s is not None:
            await happens_within(self._stop, self._settings.duration_s)
            self._over.set()

    async def _until_over(self) -> None:
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(self._started_in_time()), group.create_task(self._stop.wait())]
            waits.append(group.create_task(self._over.wait()))
            stopped_or_over = waits[1:]
            await asyncio.wait(stopped_or_over, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _started_in_time(self) -> None:
        if not await happens_within(self._started, READY_WITHIN_S):
            self._failure = NotReadyError(
                f"the service was not ready within {READY_WITHIN_S:g} s",
                hint=f"see the logs in {self._settings.where.state_folder / self._settings.where.deployment / 'logs'}",
            )
            self._over.set()

    async def _wind_down(self, supervisor: Supervisor) -> None:
        """End in the order that loses nothing: arrivals, what decides, what serves, then what counts.

        What decides goes before the nodes: nobody shall plan without those that are ended.
        """
        await supervisor.end([GENERATOR])
        if self._failure is None and self._summary.started:
            await happens_within(self._complete, LEDGER_WITHIN_S)
        await supervisor.end([CONTROLLER])
        await supervisor.end([name for name in supervisor.pids if name.startswith("node-")])
        await supervisor.end([name for name in supervisor.pids if name != ARCHIVE])
        # Last, so that it has everything that the others said.
        await supervisor.end([ARCHIVE])
        await supervisor.end([spec.name for spec in self._children.specs()])

    # --- observing

    def _generated_s(self) -> float:
        """Return for how long requests have become due."""
        return self._clock.now_s() - self._generating_since_s if self._generating_since_s is not None else 0.0

    def _note_progress(self) -> None:
        if self._summary.started and not self._started.is_set():
            self._started.set()
            self._generating_since_s = self._clock.now_s()
        if self._summary.complete:
            self._complete.set()

    def _notice(self, kind: str, child: str, reason: str) -> None:
        """Tell of a child's death, on the terminal where there is no dashboard and in the event stream."""
        if self._dashboard is None or not self._dashboard.drawing:
            tell(f"{child}: {reason}")
        if self._notices.full():
            # The server has been away for long: the newest explain more than the oldest.
            self._notices.get_nowait()
        self._notices.put_nowait(
            Event(at_ms=self._clock.now_ms(), kind=kind, source="supervisor", subject=child, reason=reason)
        )

    def _server_notice(self, reason: str) -> None:
        self._notice("server.restarted", "server", reason)

    async def _publish_notices(self, bus: Bus) -> None:
        """Publish what the supervisor has to tell, the death of the server included: as soon as it is back."""
        while True:
            notice = await self._notices.get()
            while True:
                try:
                    await bus.publish(Feed.EVENTS, [notice])
                    break
                except BusUnavailableError:
                    await asyncio.sleep(NOTICE_RETRY_S)

    # --- signals

    def _install_signals(self, supervisor: Supervisor) -> None:
        """First signal: no new requests, let the rest finish. Second: end everything now."""
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if self._stop.is_set():
                tell("stopping now")
                self.interrupted = True
                self._complete.set()
                supervisor.kill_all()
                return
            self._stop.set()
            tell("stopping: requests in work are finished; Ctrl-C again stops at once")

        # A terminal that is closed says SIGHUP, which `nohup` has told us to ignore.
        hang_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
            loop.add_signal_handler(number, on_signal)
