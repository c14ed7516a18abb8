"""The archive of a run: `clover logs archive` as a process beside what is archived, so that it slows nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from cli.output import tell
from clover.agents.supervisor import ChildFailedError, ChildSpec, Supervisor
from clover.analysis.logs.manifest import read_manifest
from clover.bus.messages import IntensityReading
from clover.bus.values import Feed

if TYPE_CHECKING:
    from pathlib import Path

    from clover.bus.messages import PlanRecord
    from clover.bus.port import Bus

#: Name of the process, of its log and of the notices about it.
ARCHIVE = "archive"
#: What led to the plan in force (its decision and its steps) is looked for so long before it.
_DECIDED_WITHIN_S = 120.0
#: A load does not wait longer than this for its archive.
_BEGUN_WITHIN_S = 10.0
#: The clocks of server and agents may differ by so much.
_SKEW_S = 5.0


def archive_spec(deployment: str, folder: Path, after: Mapping[Feed, str]) -> ChildSpec:
    """Return the process that archives what comes after the given entries, and nothing that was there before."""
    options = [f"--after={feed.value}={cursor}" for feed, cursor in after.items()]
    arguments = ["logs", "archive", str(folder), "--deployment", deployment, *options]
    return ChildSpec(name=ARCHIVE, arguments=lambda: arguments)


async def keep_archive(supervisor: Supervisor, spec: ChildSpec, failed: Callable[[str], None]) -> None:
    """Keep an archive alive until it is ended; if that cannot be, what is archived goes on without it."""
    try:
        await supervisor.keep(spec)
    except ChildFailedError as error:
        tell(f"warning: the run is not archived any more: {error}")
        failed(str(error))


async def present(bus: Bus, plan: PlanRecord) -> dict[Feed, str]:
    """Return where an archive begins that is to know the present: its plan and its grid, then whatever comes."""
    after = {feed: await bus.newest_id(feed) for feed in Feed}
    intensity = (await bus.carbon_now()).get("intensity")
    after[Feed.EVENTS] = _id_at(plan.since_ms - 1e3 * _DECIDED_WITHIN_S)
    if isinstance(intensity, IntensityReading):
        after[Feed.CARBON] = _id_at(intensity.published_at_ms)
    return after


def _id_at(at_ms: float) -> str:
    return f"{max(0, round(at_ms - 1e3 * _SKEW_S))}-0"


@contextlib.asynccontextmanager
async def archiving(
    folder: Path, *, deployment: str, after: Callable[[], Awaitable[Mapping[Feed, str]]], environment: Mapping[str, str]
) -> AsyncIterator[list[str]]:
    """Archive a deployment while the block runs; gives a list to which troubles of the archive are added.

    At the end of the block the archive reads what there is by then and closes its files; if the block fails it is
    ended at once, and what it holds by then counts.

    Args:
        folder: Of the archive; the log of its process lies beside it.
        deployment: What is archived.
        after: Tells where it begins.
        environment: Says where the server is.
    """
    troubles: list[str] = []
    spec = archive_spec(deployment, folder, await after())
    supervisor = Supervisor(
        environment=environment,
        log_folder=folder.parent,
        tell=lambda _kind, name, reason: troubles.append(f"{name}: {reason}"),
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_archive(supervisor, spec, troubles.append))
            await _until_begun(folder)
            yield troubles
            await supervisor.end([ARCHIVE])
    finally:
        supervisor.kill_all()


async def _until_begun(folder: Path) -> None:
    """Wait until an archive has begun, or cannot be expected to: its start takes processor time of what is measured."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BEGUN_WITHIN_S):
            while read_manifest(folder) is None:  # noqa: ASYNC110 - the other side is a process
                await asyncio.sleep(0.05)
