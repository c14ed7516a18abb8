"""The agents of `clover up` as processes: nodes, carbon monitor, controller and generator, with their options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clover.agents.supervisor import ChildSpec

if TYPE_CHECKING:
    from cli.up_settings import UpSettings

CONTROLLER, GENERATOR = "controller", "generator"


class UpChildren:
    """Says of each process what it is started with.

    Args:
        settings: What `up` was asked for.
        generated_s: Tells for how long requests have become due; a generator that is started again goes on from there.
    """

    def __init__(self, settings: UpSettings, *, generated_s: Callable[[], float]) -> None:
        self._settings = settings
        self._generated_s = generated_s
        self._common = ["--deployment", settings.where.deployment, *settings.shared]
        self._fleet = ["--gpus", str(sum(settings.gpus))]
        self._park = _given("--park-w", settings.park_w)

    def specs(self) -> Sequence[ChildSpec]:
        """Return all of them; the generator only if `up` sends requests of its own."""
        settings = self._settings
        carbon, controller = self._carbon(), self._controller()
        return [
            *(self._node(number, gpus) for number, gpus in enumerate(settings.gpus, start=1)),
            ChildSpec(name="carbon", arguments=lambda: carbon),
            ChildSpec(name=CONTROLLER, arguments=lambda: controller),
            *([ChildSpec(name=GENERATOR, arguments=self._generator, once=True)] if settings.own_load else []),
        ]

    def _node(self, number: int, gpus: int) -> ChildSpec:
        s = self._settings
        arguments = [
            *("agent", "node", "--name", f"n{number}", "--gpus", str(gpus)),
            # Emulated GPUs of nodes on one host have cores of their own.
            *("--first-core", str(1 + sum(s.gpus[: number - 1]))),
            *self._common,
            *s.node_options,
            *s.batches,
            *self._park,
            # Nodes must not repeat each other's random numbers.
            *("--seed", str(s.seed * 100 + number)),
            *self._metrics(number),
        ]
        return ChildSpec(name=f"node-n{number}", arguments=lambda: arguments)

    def _carbon(self) -> list[str]:
        s = self._settings
        return ["agent", "carbon", *s.carbon.arguments(), "--pue", str(s.pue), *self._common, *self._metrics(0)]

    def _controller(self) -> list[str]:
        s = self._settings
        return [
            *("agent", "controller", "--name", "controller", "--scheme", s.scheme, "--lambda", str(s.goals.lambda_)),
            *("--sla", str(s.goals.sla_ms), "--rate", str(s.rate_rps), "--expect-nodes", str(len(s.gpus))),
            *("--parking", s.goals.parking, "--reserve", str(s.goals.reserve), *self._park),
            *_given("--accuracy-floor", s.goals.accuracy_floor_pct),
            *_given("--carbon-budget", s.goals.carbon_budget_g),
            *(["--faithful"] if s.faithful else []),
            *("--evaluate", s.evaluate),
            *self._fleet,
            *s.load_profile.arguments(),
            *self._common,
            *s.batches,
            *self._metrics(len(s.gpus) + 1),
        ]

    def _generator(self) -> list[str]:
        """Return the generator's arguments; one that is started again goes on with the schedule."""
        settings = self._settings
        arguments = ["agent", "generator", *self._fleet, *self._common, *self._metrics(len(settings.gpus) + 2)]
        if settings.arrivals.trace is None:
            arguments += ["--rate", str(settings.rate_rps)]
        arguments += settings.arrivals.arguments(duration_s=settings.duration_s)
        gone_s = self._generated_s()
        arguments += ["--begin-at", f"{gone_s:.3f}"]
        if settings.duration_s is None:
            return arguments
        return [*arguments, "--duration", f"{max(0.1, settings.duration_s - gone_s)}s"]

    def _metrics(self, number: int) -> Sequence[str]:
        """Return the option for metrics: the monitor has the given port, nodes, controller and generator the next."""
        port = self._settings.metrics_port
        return [] if port is None else ["--metrics-port", str(port and port + number)]


def _given(flag: str, value: float | None) -> list[str]:
    """Return a flag with its value, or nothing if it was not given."""
    return [] if value is None else [flag, str(value)]
