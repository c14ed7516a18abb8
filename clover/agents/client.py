"""A client that asks a deployment for single answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from clover.agents.backoff import Backoff
from clover.bus.messages import IntensityReading, Reply, Request
from clover.bus.port import Bus
from clover.bus.values import Admission
from clover.core.clock import Clock
from clover.core.identifiers import uuid7
from clover.core.units import footprint_g
from clover.errors import BusUnavailableError, CloverError, NotReadyError


class AccuracyNotHeldError(CloverError):
    """The plan in force has no variant as accurate as was asked for."""

    exit_code = 5


class OverloadedError(CloverError):
    """The deployment refuses new requests at present."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer and what it cost.

    Attributes:
        reply: As it came.
        latency_ms: Sending to receipt.
        intensity: Of the grid at that moment, None if nobody says.
        footprint_g: gCO2e of the request's dynamic energy (provisional; idle power is in the ledger only).
    """

    reply: Reply
    latency_ms: float
    intensity: IntensityReading | None
    footprint_g: float | None


class Client:
    """Asks one thing at a time.

    Args:
        bus, clock: Ports.
        rng: Source of ids.
        application: Whom to ask.
        name: Producer name, unique in the deployment.
    """

    def __init__(self, *, bus: Bus, clock: Clock, rng: Random, application: str, name: str) -> None:
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._application = application
        self._name = name
        self._cursor = "0"

    async def infer(
        self, content_type: str, payload: bytes, *, wait_s: float, bound: int, min_accuracy: float | None = None
    ) -> Answer:
        """Send one request and wait for its answer.

        Args:
            content_type: Media type of the input.
            payload: The input.
            wait_s: Deadline of the request.
            bound: Most requests that may wait before this one is refused.
            min_accuracy: Least accuracy in % that may answer, None for any.

        Raises:
            OverloadedError: Refused at the door.
            AccuracyNotHeldError: Refused at the door: the plan in force holds no variant of that accuracy.
            NotReadyError: No answer in time.
        """
        now_ms = self._clock.now_ms()
        request = Request(
            id=uuid7(now_ms, self._rng),
            application=self._application,
            due_ms=now_ms,
            deadline_ms=now_ms + wait_s * 1e3,
            reply_to=self._name,
            priority="high",
            min_accuracy=min_accuracy,
            content_type=content_type,
            payload=payload,
        )
        admission = await self._admitted(request, bound)
        if admission is Admission.UNMET:
            raise AccuracyNotHeldError(
                f"min_accuracy = {min_accuracy:g}: expected what the present plan holds",
                hint="`clover status` names its variants; a smaller lambda, or --accuracy-floor, asks for better ones",
            )
        if admission is Admission.FULL:
            raise OverloadedError(f"{bound} requests are waiting already", hint="try again in a moment")
        reply = await self._reply_to(request)
        return await self._answer(reply, self._clock.now_ms() - now_ms)

    async def _admitted(self, request: Request, bound: int) -> Admission:
        """Send until the server has said what became of it; the id makes that safe."""
        backoff = Backoff(self._rng)
        while True:
            try:
                return (await self._bus.admit([request], bound=bound))[0]
            except BusUnavailableError:
                if self._clock.now_ms() >= request.deadline_ms:
                    raise
                await asyncio.sleep(backoff.next_s())

    async def _reply_to(self, request: Request) -> Reply:
        backoff = Backoff(self._rng)
        while (left_ms := request.deadline_ms - self._clock.now_ms()) > 0:
            block_s = min(1.0, max(left_ms / 1e3, 0.001))
            try:
                replies, self._cursor = await self._bus.replies(self._name, self._cursor, block_s=block_s)
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
                continue
            for reply in replies:
                if reply.id == request.id:
                    return reply
        raise NotReadyError("no answer in time", hint="`clover status` tells what the nodes are doing")

    async def _answer(self, reply: Reply, latency_ms: float) -> Answer:
        intensity = (await self._bus.carbon_now()).get("intensity")
        if not isinstance(intensity, IntensityReading):
            intensity = None
        grams = None
        if intensity is not None and reply.energy_j is not None:
            grams = footprint_g(reply.energy_j, intensity.g_per_kwh, intensity.pue)
        return Answer(reply=reply, latency_ms=latency_ms, intensity=intensity, footprint_g=grams)
