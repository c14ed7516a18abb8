"""`clover doctor`: whether host, GPUs, server, nodes and grid are fit, and what to do where they are not."""

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
    from cli.doctor_checks import Check
    from clover.bus.port import Bus
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
    helper: options.Helper = None,
    require_durable: RequireDurable = False,
    as_json: options.Json = False,
) -> None:
    """Check this host, its GPUs, the server, nodes and grid, with a remedy for each finding.

    Exit code 0 if nothing must be mended; else that of the first error: 3 this host, 4 the server, 6 a node or GPU.

    Examples: clover doctor; clover doctor --json; clover doctor --redis redis://127.0.0.1:6379 --require-durable
    """
    from cli.doctor_checks import gpu_checks, host_checks  # noqa: PLC0415 - keeps --help fast

    here = options.where(deployment, redis, state_dir)
    checks = [*host_checks(here.state_folder), *gpu_checks(helper)]
    url, findings, more = asyncio.run(_examine(here))
    checks += [*_server_checks(url, findings, require_durable=require_durable), *more]
    errors = [one for one in checks if one.status == "error"]
    if as_json:
        told = [{"check": one.check, "status": one.status, "text": one.text, "remedy": one.remedy} for one in checks]
        print_json({
            "server": url, "ok": not errors, "findings": [asdict(one) for one in findings], "checks": told,
        })  # fmt: skip
    else:
        _print(checks)
    if errors:
        sys.exit(errors[0].code)


def _server_checks(url: str | None, findings: list[Finding], *, require_durable: bool) -> list[Check]:
    """Return the findings about the server as checks; a fit one is said too."""
    from cli.doctor_checks import Check  # noqa: PLC0415 - keeps --help fast

    if url is None:
        return [Check(check="server", status="ok", text="no deployment runs here: clover up starts one")]
    found = [
        Check(
            check=f"server {one.check}",
            status="error" if one.severity == "error" or (require_durable and one.durability) else "warning",
            text=one.text,
            remedy=one.remedy,
            code=4,
        )
        for one in findings
    ]
    return found or [
        Check(check="server", status="ok", text=f"{url}: version, eviction, persistence and clock are fit")
    ]


def _print(checks: list[Check]) -> None:
    width = max(len(one.check) for one in checks)
    for one in checks:
        print(f"{one.status:<8}{one.check:<{width}}  {one.text}")
        if one.remedy and one.status != "ok":
            print(f"{'':<8}{'':<{width}}  -> {one.remedy}")


async def _examine(here: options.Where) -> tuple[str | None, list[Finding], list[Check]]:
    """Look at the server and at what it knows; None and nothing if no deployment is known here."""
    from clover.agents.deployment import find_url  # noqa: PLC0415 - keeps --help fast
    from clover.bus.redis import connect  # noqa: PLC0415

    url = find_url(here.redis, here.state_folder, here.deployment)
    if url is None:
        return None, [], []
    where, findings = await findings_of(url)
    bus = connect(url, here.deployment, "doctor")
    try:
        return where, findings, [*await _rights(url), *await _deployment(bus)]
    finally:
        await bus.close()


async def _deployment(bus: Bus) -> list[Check]:
    from cli.doctor_checks import Check, deployment_checks  # noqa: PLC0415 - keeps --help fast

    try:
        return await deployment_checks(bus)
    except BusError as error:
        return [
            Check(
                check="rights", status="unknown", text=f"this user may not look at the deployment: {error}",
                remedy="use the dashboard's or the operator's user (clover config acl)", code=4,
            )
        ]  # fmt: skip


async def _rights(url: str) -> list[Check]:
    """Say as whom the server knows us: anybody's rights are a finding on a server that others reach."""
    from cli.doctor_checks import Check  # noqa: PLC0415 - keeps --help fast
    from clover.bus.redis import RedisLink  # noqa: PLC0415

    link = RedisLink(url, "doctor")
    try:
        user = (await link.command("ACL", "WHOAMI")).decode()
    except BusError:
        return [Check(check="server rights", status="unknown", text="this user may not ask who it is")]
    finally:
        await link.close()
    if user != "default":
        return [Check(check="server rights", status="ok", text=f"user {user}")]
    local = any(place in url for place in ("127.0.0.1", "localhost", "unix:"))
    return [
        Check(
            check="server rights", status="ok" if local else "warning",
            text="user default, who may do everything" + ("; this server is local" if local else ""),
            remedy="" if local else "clover config acl makes a user per role with the rights of its work alone",
        )
    ]  # fmt: skip


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
