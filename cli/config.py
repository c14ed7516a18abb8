"""`clover config`: settings that are made, not chosen: the access rules of a deployment's server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import print_json, tell

app = typer.Typer(no_args_is_help=True)


@app.command()
def acl(
    *,
    deployment: options.Deployment = "clover",
    secrets: Annotated[
        Path | None,
        typer.Option("--secrets", help="Folder of passwords, one file per role; missing ones are made (mode 0600)."),
    ] = None,
    producer: Annotated[
        list[str] | None,
        typer.Option("--producer", help="A producer with a user of its own, who reads its own replies alone; repeat."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the access rules (ACL file) of a deployment: a user per role, each with the rights of its work alone.

    Example: clover config acl --secrets /etc/clover/secrets > /etc/redis/users.acl
    """
    from clover.bus.acl import (  # noqa: PLC0415 - keeps --help fast
        ROLES,
        acl_rules,
        digests_of,
        secret_name,
        user_name,
    )

    producers = producer or []
    rules = acl_rules(deployment, digests_of(secrets, producers) if secrets is not None else {}, producers)
    if as_json:
        users = {role: user_name(deployment, role) for role in ROLES}
        users |= {secret_name(name): user_name(deployment, "generator", name) for name in producers}
        print_json({"deployment": deployment, "users": users, "rules": rules.splitlines()})
        return
    print(rules, end="")
    if secrets is None:
        tell("all users are off: passwords come from --secrets DIR")
