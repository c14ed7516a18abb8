"""`clover config`: what settings hold and where they come from, and the access rules of a deployment's server."""

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


@app.command()
def show(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Of which command, such as agent node.")
    ] = None,
    *,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each comes from.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not defaults.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print what the settings of a command (default: up) are without flags.

    Examples: clover config show --origin; clover config show agent node --changed
    """
    from cli.config_show import DEFAULT, as_fields, settings_of  # noqa: PLC0415 - keeps --help fast
    from cli.settings import settings_file  # noqa: PLC0415

    words = command or ["up"]
    settings = [
        each for each in settings_of(context.find_root().command, words) if not changed or each.origin != DEFAULT
    ]
    if as_json:
        file = settings_file()
        print_json({"command": " ".join(words), "file": str(file) if file else None, "settings": as_fields(settings)})
        return
    values = ["-" if each.value is None else str(each.value) for each in settings]
    width = max((len(each.option) for each in settings), default=0)
    value_width = max((len(value) for value in values), default=0) if origin else 0
    for each, value in zip(settings, values, strict=True):
        said = f"  {each.origin} {each.where}".rstrip() if origin else ""
        print(f"{each.option:<{width}}  {value:<{value_width}}{said}")


@app.command()
def check(context: typer.Context, *, as_json: options.Json = False) -> None:
    """Check the settings file: unknown keys and values that cannot be. Exit code 3 if there are any.

    Example: CLOVER_CONFIG=clover.toml clover config check
    """
    from cli.config_show import problems  # noqa: PLC0415 - keeps --help fast
    from cli.settings import settings_file  # noqa: PLC0415

    file = settings_file()
    found = problems(context.find_root().command)
    if as_json:
        print_json({"file": str(file) if file else None, "ok": not found, "problems": found})
    else:
        for line in found:
            print(f"{file}: {line}")
        if not found:
            print(f"{file}: all is well" if file else "no settings file: built-in defaults and CLOVER_* hold")
    if found:
        raise typer.Exit(3)


@app.command()
def init(
    context: typer.Context,
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Where to write it.")] = Path("clover.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a settings file in which everything is explained and commented out.

    Examples: clover config init; clover config init --output /etc/clover/clover.toml
    """
    from cli.config_show import template  # noqa: PLC0415 - keeps --help fast
    from clover.errors import ConfigurationError  # noqa: PLC0415

    if output.exists() and not force:
        raise ConfigurationError(f"{output} is there already", hint="--force writes over it, --output FILE elsewhere")
    try:
        output.write_text(template(context.find_root().command), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output}: {error.strerror}") from error
    if as_json:
        print_json({"file": str(output)})
    else:
        tell(f"wrote {output}; take away the # of what you want to change, then: clover config check")
