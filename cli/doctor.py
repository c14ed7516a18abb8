"""`clover doctor`: whether the server is fit to hold a deployment."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import print_json, tell
from clover.errors import BusError, ConfigurationError

if TYPE_CHECKING:
    from clover.bus.server_check import Finding

RequireDurable = Annotated[
    bool,
    typer.Option(
        "--require-durable",
        help="Refuse a server that may lose what it has acknowledged.",
        envvar="CLOVER_REQUIRE_DURABLE",
    ),
]


def doctor(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    require_durable: RequireDurable = False,
    as_json: options.Json = False,
) -> None:
    """Check the server: version, eviction, persistence, clock. Exit code 4 if something must be mended.

    Example: clover doctor --redis redis://127.0.0.1:6379 --require-durable
    """
    here = options.where(deployment, redis, state_dir)
    url, findings = asyncio.run(_examine(here))
    refused = [one for one in findings if one.severity == "error" or (require_durable and one.durability)]
    if as_json:
        print_json({"server": url, "ok": not refused, "findings": [asdict(one) for one in findings]})
    else:
        _print(url, findings)
    if refused:
        sys.exit(4)


def _print(url: str, findings: list[Finding]) -> None:
    print(f"{url}: {'fit' if not findings else f'{len(findings)} findings'}")
    for one in findings:
        print(f"  {one.severity:7} {one.check}: {one.text}")
        print(f"          remedy: {one.remedy}")


async def _examine(here: options.Where) -> tuple[str, list[Finding]]:
    from clover.agents.deployment import find_url  # noqa: PLC0415 - keeps --help fast

    url = find_url(here.redis, here.state_folder, here.deployment)
    if url is None:
        raise BusError(
            f"no server is known for deployment {here.deployment!r}",
            hint="give --redis URL, or start one with `clover server`",
        )
    return await findings_of(url)


async def findings_of(url: str) -> tuple[str, list[Finding]]:
    """Return a server's address as it may be shown, and what is to be said about it."""
    from clover.bus.redis import RedisLink  # noqa: PLC0415 - keeps --help fast
    from clover.bus.server_check import check_server, read_facts  # noqa: PLC0415

    link = RedisLink(url, "doctor")
    try:
        return link.where, check_server(await read_facts(link, behind_sentinels=link.behind_sentinels))
    finally:
        await link.close()


async def require_fit(url: str, *, durable: bool) -> None:
    """Say what is wrong with a server before a deployment starts on it.

    Raises:
        ConfigurationError: It is too old, or may lose data although that is not to be.
    """
    where, findings = await findings_of(url)
    for one in findings:
        if one.check == "version" or (durable and one.durability):
            raise ConfigurationError(f"{where}: {one.text}", hint=one.remedy)
        tell(f"{one.severity}: {where}: {one.text}; {one.remedy}")
