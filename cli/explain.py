"""`clover explain`: why a plan is as it is, and what it beat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.connection import connected
from cli.events import describe
from cli.output import print_json
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.bus.messages import Event


def explain(
    epoch: Annotated[str, typer.Argument(help="Epoch of a plan, or last.")] = "last",
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Print the decision behind an epoch: trigger, figures, what it beat and why, and every step of its roll.

    Examples: clover explain; clover explain 42 --json
    """
    if epoch != "last" and not epoch.isdigit():
        raise ConfigurationError(f"epoch {epoch!r}: expected a whole number, or last")
    here = options.where(deployment, redis, state_dir)
    found = find_story(asyncio.run(_events(here)), None if epoch == "last" else int(epoch))
    if as_json:
        import msgspec  # noqa: PLC0415 - keeps --help fast

        print_json({"events": msgspec.to_builtins(found)})
        return
    for event in found:
        for line in describe(event, why=True):
            print(line)


async def _events(here: options.Where) -> list[Event]:
    from clover.bus.messages import Event  # noqa: PLC0415 - keeps --help fast
    from clover.bus.values import Feed  # noqa: PLC0415

    bus = await connected(here, "explain")
    try:
        cursor, found = "0", list[Event]()
        while entries := await bus.follow({Feed.EVENTS: cursor}, block_s=0.0):
            cursor = entries[-1].id
            found += [entry.message for entry in entries if isinstance(entry.message, Event)]
        return found
    finally:
        await bus.close()


def find_story(events: list[Event], epoch: int | None) -> list[Event]:
    """Return the decision behind an epoch (None: the last decision) and the steps by which it came into force.

    Raises:
        ConfigurationError: There is no such epoch among the events that are kept.
    """
    own = [event for event in events if event.kind == "decision" or event.kind.startswith("plan.")]
    if epoch is None:
        numbers = [_number(event) for event in own if event.kind == "decision"]
        if not numbers:
            raise ConfigurationError("no decision is kept", hint="`clover status` tells what the controller waits for")
        number = numbers[-1]
    else:
        with_epoch = {event.epoch: _number(event) for event in own if event.epoch}
        if epoch not in with_epoch:
            kept = f"kept: {min(with_epoch)} to {max(with_epoch)}" if with_epoch else "none is kept"
            raise ConfigurationError(f"epoch {epoch}: not known, {kept}")
        number = with_epoch[epoch]
    # After a loss of the server's data numbers begin anew: the newest decision of that number counts.
    first = max((i for i, e in enumerate(own) if e.kind == "decision" and _number(e) == number), default=0)
    return [event for event in own[first:] if _number(event) == number]


def _number(event: Event) -> int:
    data: dict[str, Any] = event.data
    number = data.get("decision", 0)
    return number if isinstance(number, int) else 0
