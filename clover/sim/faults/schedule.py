"""What goes wrong when: faults of class A, which nobody may notice, drawn from a seeded deck."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

from clover.bus.key_names import Keys
from clover.bus.values import Feed
from clover.errors import BusUnavailableError, NotReadyError
from clover.sim.faults.history import Planted, now_ms
from clover.sim.faults.malformed import MALFORMED
from clover.sim.faults.rig import Agent, Rig
from clover.sim.faults.toxics import (
    Bandwidth,
    BlackHole,
    CutBeforeReply,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    Toxic,
)

#: Longer than the lease of a request (5 s) and of a controller (6 s).
_PAST_LEASE_S = 8.0
#: How long an armed crash point may take to be passed, and a killed process to be back.
_CRASH_WAIT_S, _BACK_S = 10.0, 60.0

_NODE_POINTS = (
    "pull.before",
    "pull.after",
    "finish.before",
    "finish.after",
    "keep_alive.before",
    "keep_alive.after",
    "claim.after",
    "publish_telemetry.before",
)
_PRODUCER_POINTS = ("admit.before", "admit.after", "replies.before", "replies.after")


class Saboteur:
    """Breaks one thing at a time in a deployment.

    Args:
        rig: The deployment.
        seed: Of what goes wrong and when.
        gap_s: Shortest and longest time from one fault to the next.
    """

    def __init__(self, rig: Rig, *, seed: int, gap_s: tuple[float, float] = (5.0, 20.0)) -> None:
        self._rig = rig
        self._rng = Random(f"{seed}/faults")  # noqa: S311 - a test's schedule
        self._gap_s = gap_s
        self._keys = Keys(rig.settings.deployment)
        self._deck: list[Callable[[], Awaitable[None]]] = []

    @property
    def faults(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """All faults, each as a call that breaks something and mends it again."""
        return (
            self.node_killed,
            self.node_crashes,
            self.node_stopped,
            self.node_cut_off,
            self.node_jumps,
            self.producer_killed,
            self.producer_crashes,
            self.producer_cut_off,
            self.producer_jumps,
            self.controllers_killed,
            self.controller_stopped,
            self.carbon_killed,
            self.server_killed,
            self.server_stopped,
            self.server_full,
            self.clients_paused,
            self.clients_killed,
            self.slow_network,
            self.narrow_network,
            self.sliced_network,
            self.reset_network,
            self.lost_replies,
            self.short_connections,
            self.malformed,
        )

    async def run(self, seconds: float) -> None:
        """Break things for a while; every fault is drawn once before any comes again."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        while True:
            next_s = loop.time() + self._rng.uniform(*self._gap_s)
            if next_s > until_s:
                await asyncio.sleep(max(0.0, until_s - loop.time()))
                return
            await asyncio.sleep(max(0.0, next_s - loop.time()))
            if not self._deck:
                self._deck = self._rng.sample(self.faults, len(self.faults))
            await self._deck.pop()()

    # --- processes

    def _one(self, *roles: str) -> Agent:
        return self._rng.choice([agent for agent in self._rig.agents.values() if agent.role in roles])

    async def _back(self, agent: Agent, life: str) -> None:
        """Wait until a new process of an agent runs."""
        async with asyncio.timeout(_BACK_S):
            while agent.life == life or not agent.running:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)

    async def _kill(self, *agents: Agent, name: str) -> None:
        with self._rig.fault(name, " ".join(agent.name for agent in agents)):
            lives = [(agent, agent.life) for agent in agents]
            for agent in agents:
                with contextlib.suppress(NotReadyError):
                    agent.kill()
            for agent, life in lives:
                await self._back(agent, life)

    async def _crash(self, agent: Agent, point: str, name: str) -> None:
        with self._rig.fault(name, f"{agent.name} {point}"):
            life = agent.life
            agent.expect_end()
            await agent.order(f"crash {point}")
            try:
                async with asyncio.timeout(_CRASH_WAIT_S):
                    await self._back(agent, life)
            except TimeoutError:
                # Not every point is passed in so short a time; an armed process must not die later.
                agent.kill()
                await self._back(agent, life)

    async def node_killed(self) -> None:
        """`kill -9` of a node."""
        await self._kill(self._one("node"), name="node.kill")

    async def node_crashes(self) -> None:
        """A node dies at a named point."""
        await self._crash(self._one("node"), self._rng.choice(_NODE_POINTS), "node.crash")

    async def node_stopped(self) -> None:
        """A node freezes past its leases and comes back to life with work that others have done."""
        node = self._one("node")
        with self._rig.fault("node.stop", node.name), node.stopped():
            await asyncio.sleep(_PAST_LEASE_S)

    async def node_jumps(self) -> None:
        """A node's wall clock is wrong by an hour for a while."""
        await self._jump(self._one("node"), "node.jump")

    async def producer_killed(self) -> None:
        """`kill -9` of the generator: what it had asked for is answered all the same."""
        await self._kill(self._one("generator"), name="generator.kill")

    async def producer_crashes(self) -> None:
        """The generator dies at a named point."""
        await self._crash(self._one("generator"), self._rng.choice(_PRODUCER_POINTS), "generator.crash")

    async def producer_jumps(self) -> None:
        """The generator's wall clock is wrong by an hour for a while."""
        await self._jump(self._one("generator"), "generator.jump")

    async def _jump(self, agent: Agent, name: str) -> None:
        seconds = self._rng.choice((-3600.0, 3600.0))
        with self._rig.fault(name, f"{agent.name} {seconds:+.0f} s"):
            await agent.order(f"jump {seconds}")
            await asyncio.sleep(self._rng.uniform(1.0, 5.0))
            await agent.order("jump 0")

    async def controllers_killed(self) -> None:
        """`kill -9` of all controllers at once."""
        await self._kill(*self._rig.of("controller"), name="controller.kill")

    async def controller_stopped(self) -> None:
        """A controller freezes past its lease and comes back believing that it still acts."""
        controller = self._one("controller")
        with self._rig.fault("controller.stop", controller.name), controller.stopped():
            await asyncio.sleep(_PAST_LEASE_S)

    async def carbon_killed(self) -> None:
        """`kill -9` of the carbon monitor."""
        await self._kill(self._one("carbon"), name="carbon.kill")

    # --- server

    async def server_killed(self) -> None:
        """`kill -9` of the server, which comes back with its append-only file."""
        with self._rig.fault("server.kill"):
            await self._rig.server.kill()
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            await self._rig.server.restart()

    async def server_stopped(self) -> None:
        """The server freezes."""
        with self._rig.fault("server.stop"):
            async with self._rig.server.stopped():
                await asyncio.sleep(self._rng.uniform(1.0, 4.0))

    async def server_full(self) -> None:
        """The server refuses writes for want of memory (`noeviction`)."""
        with self._rig.fault("server.full"):
            async with self._rig.server.full():
                await asyncio.sleep(self._rng.uniform(1.0, 4.0))

    async def clients_paused(self) -> None:
        """The server lets all clients wait."""
        with self._rig.fault("server.pause"):
            seconds = self._rng.uniform(1.0, 4.0)
            with contextlib.suppress(BusUnavailableError):
                await self._rig.server.pause_clients(seconds)
            await asyncio.sleep(seconds)

    async def clients_killed(self) -> None:
        """The server closes all connections, a few times."""
        with self._rig.fault("server.clients"):
            for _ in range(3):
                with contextlib.suppress(BusUnavailableError):
                    await self._rig.server.kill_clients()
                await asyncio.sleep(self._rng.uniform(0.1, 0.5))

    # --- network

    @contextlib.asynccontextmanager
    async def _spoilt(self, name: str, agents: list[Agent], toxic: Callable[[], Toxic]) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._rig.fault(name, " ".join(agent.name for agent in agents)))
            for agent in agents:
                stack.enter_context(agent.proxy.spoilt(toxic()))
            yield

    async def _spoil(self, name: str, agents: list[Agent], toxic: Callable[[], Toxic], seconds: float) -> None:
        async with self._spoilt(name, agents, toxic):
            await asyncio.sleep(seconds)

    async def node_cut_off(self) -> None:
        """Nothing passes between a node and the server, longer than its leases; connections stay open."""
        await self._spoil("net.partition", [self._one("node")], BlackHole, _PAST_LEASE_S)

    async def producer_cut_off(self) -> None:
        """Nothing passes between the generator and the server."""
        await self._spoil("net.partition", [self._one("generator")], BlackHole, self._rng.uniform(2.0, 6.0))

    def _served_agents(self) -> list[Agent]:
        return [*self._rig.of("node"), *self._rig.of("generator")]

    async def slow_network(self) -> None:
        """Everything takes 50 ms, give or take, each way."""
        await self._spoil(
            "net.latency", self._served_agents(), lambda: Latency(latency_s=0.05, jitter_s=0.04, rng=self._rng), 5.0
        )

    async def narrow_network(self) -> None:
        """One agent has 64 KiB/s."""
        await self._spoil("net.bandwidth", [self._one("node", "generator")], lambda: Bandwidth(rate_kb_s=64.0), 5.0)

    async def sliced_network(self) -> None:
        """Everything comes in crumbs."""
        await self._spoil(
            "net.slicer", self._served_agents(), lambda: Slicer(average=48, variation=40, rng=self._rng), 4.0
        )

    async def reset_network(self) -> None:
        """Each connection of one agent is reset as soon as it is used."""
        await self._spoil("net.reset", [self._one("node", "generator")], ResetPeer, self._rng.uniform(0.5, 2.0))

    async def lost_replies(self) -> None:
        """The server does what it is told, and nobody hears of it."""
        await self._spoil("net.cut", [self._one("node", "generator")], CutBeforeReply, self._rng.uniform(0.5, 3.0))

    async def short_connections(self) -> None:
        """Connections break after 2 KiB."""
        await self._spoil("net.limit", [self._one("node", "generator")], lambda: LimitData(limit=2048), 3.0)

    # --- messages

    async def malformed(self) -> None:
        """Garbage on every stream that somebody reads."""
        keys, bus = self._keys, self._rig.server
        streams = [*keys.request_streams, keys.feed(Feed.TELEMETRY), keys.feed(Feed.CARBON)]
        streams += [keys.target(node.name) for node in self._rig.of("node")]
        streams += [keys.replies(self._rig.producers[-1])]
        with self._rig.fault("malformed"):
            for stream in streams:
                for fields in self._rng.sample(MALFORMED, 3):
                    pairs = [part for pair in fields.items() for part in pair]
                    entry_id = await bus.command("XADD", stream, "*", *pairs)
                    self._rig.history.write([Planted(at_ms=now_ms(), stream=stream, entry_id=entry_id.decode())])
            # What is read only now and then is given time before the next fault kills its reader.
            await asyncio.sleep(2.0)
