"""`clover events`: what happened in a deployment, and what happens next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.feed_reading import read_feeds
from cli.output import number, print_json

if TYPE_CHECKING:
    from clover.bus.messages import Alternative, Event, Prediction
    from clover.bus.values import Entry


def events(
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Only this kind (decision) or group (gpu, plan); may be given again."),
    ] = None,
    since_start: Annotated[
        bool, typer.Option("--since-start/--since-now", help="Begin with what is kept, or with what comes next.")
    ] = True,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what happens next.")] = True,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")] = False,
) -> None:
    """Print events, the kept ones first; decisions with their trigger and the alternatives they beat.

    Examples: clover events; clover events --kind decision --json; clover events --no-follow
    """
    from clover.bus.values import Feed  # noqa: PLC0415 - keeps --help fast

    # What only looks back has nothing to wait for.
    here = options.where(deployment, redis, state_dir, wait if follow else 0.0)
    printer = _Printer(kinds=tuple(kind or ()), as_json=as_json)
    asyncio.run(read_feeds(here, "events", [Feed.EVENTS], printer.take, since_start=since_start, follow=follow))


class _Printer:
    """Prints those events that were asked for."""

    def __init__(self, *, kinds: tuple[str, ...], as_json: bool) -> None:
        self._kinds = kinds
        self._as_json = as_json

    def take(self, entry: Entry) -> None:
        """Print an entry if it is an event of a wanted kind."""
        from clover.bus.messages import Event  # noqa: PLC0415 - keeps --help fast

        event = entry.message
        if not isinstance(event, Event) or not self._wanted(event.kind):
            return
        if self._as_json:
            import msgspec  # noqa: PLC0415 - keeps --help fast

            print_json({"id": entry.id, **msgspec.to_builtins(event)})
            return
        for line in describe(event):
            print(line, flush=True)

    def _wanted(self, kind: str) -> bool:
        return not self._kinds or any(kind == each or kind.startswith(f"{each}.") for each in self._kinds)


def describe(event: Event, *, why: bool = False) -> list[str]:
    """Write an event for people: a line, and for a decision what it expects and what it beat (and `why`)."""
    from cli.dashboard_text import clean, clock  # noqa: PLC0415 - keeps --help fast
    from clover.bus.messages import DecisionData, data_of  # noqa: PLC0415

    epoch = f" [epoch {event.epoch}]" if event.epoch else ""
    if event.kind != "decision":
        return [clean(f"{clock(event.at_ms)}  {event.kind:<18} {event.subject}  {event.reason}{epoch}".rstrip())]
    data = data_of(event, DecisionData)
    if data is None:
        return [clean(f"{clock(event.at_ms)}  decision  {event.reason}{epoch} (its figures cannot be read)")]
    head = f"{clock(event.at_ms)}  decision {data.decision} on {data.trigger}: {event.reason}{epoch}"
    lines = [head, f"          chose {event.subject}{_figures(data.prediction)}"]
    for other in data.alternatives:
        lines.append(f"          beat  {other.configuration}{_figures(other)}")
        lines += [f"                for {other.why}"] if why and other.why else []
    return [clean(line) for line in lines]


def _figures(of: Prediction | Alternative | None) -> str:
    """Write the figures of a prediction or of an alternative."""
    if of is None:
        return ""
    kept = "" if getattr(of, "meets_sla", True) else " (misses the SLA)"
    return (
        f": p95 {'without bound' if of.p95_ms is None else f'{of.p95_ms:.0f} ms'}{kept}, "
        f"accuracy {number(of.accuracy_pct, ' %', 2)}, "
        f"{number(of.energy_j_per_request, ' J', 2)} per request, objective {number(of.objective, '', 4)}"
    )
