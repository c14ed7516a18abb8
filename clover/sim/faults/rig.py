"""A deployment to be broken: a real server, real agents as processes, each behind a proxy of its own, all watched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from clover.agents.readiness import plan_in_force
from clover.bus.redis import RedisBus, connect
from clover.core.schedule import Mix
from clover.errors import BusUnavailableError, NotReadyError
from clover.sim.faults.history import Fault, HistoryFile, ProcessEnded, now_ms
from clover.sim.faults.process import ProcessSettings, Role
from clover.sim.faults.proxy import Proxy
from clover.sim.faults.server import FaultyServer

#: How long the deployment may take to serve, on a machine that is very busy.
_READY_S = 60.0
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RigSettings:
    """A deployment.

    Attributes:
        folder: For data, logs and the history.
        deployment: Its name.
        nodes: How many, each with one GPU cut into seven instances.
        controllers: How many; one acts, the others stand by.
        service_ms: Mean service time.
        load: Arrival rate as a share of what all instances can do.
        scheme, mix, misdelivery: See `ProcessSettings`.
        durable: Whether the server keeps an append-only file.
        proxied: Whether each agent has a proxy of its own; without, network faults do nothing.
        record: Whether agents write a history; benchmarks want them as they are.
        seed: Of everything random.
    """

    folder: Path
    deployment: str = "faults"
    nodes: int = 3
    controllers: int = 2
    service_ms: float = 150.0
    load: float = 0.7
    scheme: str = "co2opt"
    mix: Mix = field(default_factory=Mix)
    misdelivery: float = 0.02
    durable: bool = True
    proxied: bool = True
    record: bool = True
    seed: int = 0

    @property
    def rate_rps(self) -> float:
        """Arrival rate in requests/s."""
        return self.load * self.nodes * 7 / (self.service_ms / 1e3)


class Agent:
    """One agent of the deployment and the process that it is at present."""

    def __init__(self, rig: Rig, role: Role, name: str, proxy: Proxy, **settings: Any) -> None:
        self._rig = rig
        self._settings = settings
        self._expected = False
        self._process: asyncio.subprocess.Process | None = None
        self._lives = 0
        self.role: Role = role
        self.name = name
        self.proxy = proxy

    @property
    def pid(self) -> int:
        """Process id; raises NotReadyError while it is down."""
        if self._process is None or self._process.returncode is not None:
            raise NotReadyError(f"{self.name} is down")
        return self._process.pid

    @property
    def life(self) -> str:
        """Name of the present process: each life of an agent has its own."""
        return f"{self.name}-{self._lives}"

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start a process; a generator gets a new name each time, since its producer dies with it."""
        self._lives += 1
        self._expected = False
        name = self.life if self.role == "generator" else self.name
        told = ProcessSettings(
            role=self.role,
            name=name,
            url=self.proxy.url if self._rig.settings.proxied else self._rig.server.url,
            deployment=self._rig.settings.deployment,
            folder=str(self._rig.settings.folder),
            seed=self._rig.settings.seed + self._lives,
            record=self._rig.settings.record,
            **self._settings,
        )
        with (self._rig.settings.folder / f"{self.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "clover.sim.faults.process",
                msgspec.json.encode(told).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        if self.role == "generator":
            self._rig.producers.append(name)

    async def wait(self) -> int:
        """Wait for the present process to end and put it down; return its exit code."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        # A producer that ended in order has accounted for all its requests; one that was killed cannot.
        if self.role != "generator" or code:
            detail = f"exit code {code}, see {self.name}.log"
            self._rig.history.write(
                [ProcessEnded(at_ms=now_ms(), name=self.life, expected=self._expected, detail=detail)]
            )
        return code

    async def ended(self) -> None:
        """Wait for the present process to end."""
        if self._process is not None:
            await self._process.wait()

    def kill(self) -> None:
        """Kill as by `kill -9`."""
        self.expect_end()
        os.kill(self.pid, signal.SIGKILL)

    def expect_end(self) -> None:
        """Say that the next end of the process is no accident."""
        self._expected = True

    @contextlib.contextmanager
    def stopped(self) -> Any:
        """Freeze by SIGSTOP for the time of a `with` block."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def order(self, line: str) -> None:
        """Tell the process to misbehave."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.drain()

    def terminate(self) -> None:
        """Ask to stop: a generator then waits for its last answer, a node finishes what it has."""
        self.expect_end()
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    async def end(self) -> None:
        """Kill and collect, if it runs."""
        if self.running and self._process is not None:
            self.kill()
            await self._process.wait()


class Rig:
    """The deployment and what can be done to it. Whatever dies is started again, as `clover up` does."""

    def __init__(self, settings: RigSettings) -> None:
        self.settings = settings
        self.server = FaultyServer(settings.folder / "data", durable=settings.durable)
        self.history = HistoryFile(settings.folder, "rig")
        self.agents: dict[str, Agent] = {}
        #: Names of all producers that there were, oldest first.
        self.producers: list[str] = []
        self._proxies = contextlib.AsyncExitStack()
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._proxies.enter_async_context(self.server)
        self.bus: RedisBus = connect(self.server.url, self.settings.deployment, "observer")
        settings = self.settings
        times = {"service_ms": settings.service_ms, "rate_rps": settings.rate_rps, "nodes": settings.nodes}
        for number in range(1, settings.nodes + 1):
            await self._add("node", f"n{number}", misdelivery=settings.misdelivery, **times)
        for number in range(1, settings.controllers + 1):
            await self._add("controller", f"c{number}", scheme=settings.scheme, **times)
        await self._add("carbon", "carbon", **times)
        await self._add("generator", "g", misdelivery=settings.misdelivery, mix=settings.mix, **times)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_keeping()
        for agent in self.agents.values():
            await agent.end()
        await self.bus.close()
        await self._proxies.aclose()
        self.history.close()

    async def _add(self, role: Role, name: str, **settings: Any) -> None:
        proxy = await self._proxies.enter_async_context(Proxy(self.server.port))
        self.agents[name] = Agent(self, role, name, proxy, **settings)

    def of(self, role: Role) -> list[Agent]:
        """Return the agents of one role."""
        return [agent for agent in self.agents.values() if agent.role == role]

    # --- life

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Start all agents, keep them running inside `group`, and wait until the deployment serves."""
        for agent in self.agents.values():
            await agent.start()
            self._keepers.append(group.create_task(self._keep(agent), name=f"keep-{agent.name}"))
        async with asyncio.timeout(_READY_S):
            while not await self.serving():  # noqa: ASYNC110 - the other side is other processes
                await asyncio.sleep(_PAUSE_S)

    async def serving(self) -> bool:
        """Return whether a plan is in force on living nodes."""
        try:
            return await plan_in_force(self.bus, seen_after_ms=0.0) is not None
        except BusUnavailableError:
            return False

    async def _keep(self, agent: Agent) -> None:
        while True:
            code = await agent.wait()
            if agent.role == "generator" and code == 0:
                return
            await asyncio.sleep(_PAUSE_S)
            await agent.start()

    def stop_keeping(self) -> None:
        """Let what ends from now on be at its end."""
        for keeper in self._keepers:
            keeper.cancel()

    async def stop_load(self, *, limit_s: float) -> None:
        """Let the generator stop and wait until its last request has an outcome.

        Raises:
            TimeoutError: That did not happen.
        """
        async with asyncio.timeout(limit_s):
            for agent in self.of("generator"):
                agent.terminate()
                await agent.ended()

    @contextlib.contextmanager
    def fault(self, name: str, target: str = "", *, kind: Literal["A", "B"] = "A") -> Any:
        """Put down what is done in a `with` block, and how long it lasted."""
        began_ms = now_ms()
        try:
            yield
        finally:
            self.history.write([Fault(at_ms=began_ms, until_ms=now_ms(), kind=kind, name=name, target=target)])
