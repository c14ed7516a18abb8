"""The access rules of a deployment, made from the registry of keys: what each role may do, and nothing else.

    python -m clover.bus.acl --deployment clover --secrets /etc/clover/secrets > users.acl

A user per role (`<deployment>-<role>`), the default user off. Every key kind names the commands that a role may use on
it; they become one selector per group of commands, so that the right to append to one stream is not the right to
delete from another. Scripts get no more: the server checks each command inside them against the same rules. Passwords
are never printed: the file holds their SHA-256 digests, and the secrets stay in one file per role.

The role `generator` may read every producer's replies. Where producers must not read each other's, each has a user of
its own (`<deployment>-generator-<name>`) that may read its own reply stream alone; the common user is then off.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from clover.bus.key_names import checked_deployment, checked_name
from clover.bus.keys import REGISTRY
from clover.bus.roles import Role
from clover.errors import CloverError, ConfigurationError, MessageRejectedError

ROLES: tuple[Role, ...] = get_args(Role)

#: What every user needs to be connected at all, and to run scripts; these touch no key by themselves.
_CONNECTION = "+auth +hello +ping +select +role +time +client|setname +client|id +evalsha +eval +info"
#: A node wakes its own blocked reader when what it can answer changes.
_OWN_READER = "+client|unblock"
#: What an operator may do to the deployment's keys: all but what endangers the server or other deployments.
_OPERATOR = "+@all -@admin -@dangerous -script +info +role +acl|whoami +client|list"


def acl_rules(deployment: str, digests: Mapping[str, str], producers: Sequence[str] = ()) -> str:
    """Return the text of an ACL file, one user a line.

    Args:
        deployment: Whose keys.
        digests: SHA-256 in hexadecimal of the password of each role, and of each producer under `generator-<name>`;
            who has none is switched off.
        producers: Producers with users of their own; with any, the common user of all generators is off.
    """
    checked_deployment(deployment)
    lines = ["user default off resetchannels -@all"]
    for role in ROLES:
        replaced = role == "generator" and producers
        lines.append(_user(deployment, role, None if replaced else digests.get(role)))
    lines += [_user(deployment, "generator", digests.get(secret_name(name)), producer=name) for name in producers]
    return "".join(f"{line}\n" for line in lines)


def user_name(deployment: str, role: Role, producer: str = "") -> str:
    """Return the name of a role's user, or of one producer's."""
    return f"{deployment}-{secret_name(producer) if producer else role}"


def secret_name(producer: str) -> str:
    """Return the name of the file of a producer's password; `ConfigurationError` if it cannot name a producer."""
    try:
        return f"generator-{checked_name('producer', producer)}"
    except MessageRejectedError as error:
        raise ConfigurationError(str(error)) from error


def _user(deployment: str, role: Role, digest: str | None, *, producer: str = "*") -> str:
    login = f"on #{digest}" if digest else "off"
    name = user_name(deployment, role, "" if producer == "*" else producer)
    head = f"user {name} {login} resetchannels -@all"
    connection = f"{_CONNECTION} {_OWN_READER}" if role == "node" else _CONNECTION
    if role == "operator":
        return f"{head} ~{{{deployment}}}:* {_OPERATOR}"
    groups = _groups(deployment, role, producer)
    keys = " ".join(f"~{pattern}" for pattern in sorted({one for group in groups.values() for one in group}))
    selectors = " ".join(
        f"(~{' ~'.join(patterns)} {' '.join(f'+{command}' for command in commands.split())})"
        for commands, patterns in groups.items()
    )
    return f"{head} {keys} {connection} {selectors}"


def _groups(deployment: str, role: Role, producer: str) -> dict[str, list[str]]:
    """Return the key patterns of each group of commands that a role has."""
    groups: dict[str, list[str]] = {}
    for spec in REGISTRY:
        for commands in spec.commands.get(role, ()):
            groups.setdefault(commands, []).append(_pattern(spec.pattern, deployment, producer))
    return groups


def _pattern(pattern: str, deployment: str, producer: str) -> str:
    named = pattern.replace("{d}", f"{{{deployment}}}").replace("<producer>", producer)
    return re.sub(r"<\w+>", "*", named)


def digests_of(folder: Path, producers: Sequence[str] = ()) -> dict[str, str]:
    """Return the digests of the passwords in `<folder>/<role>` and `<folder>/generator-<producer>`.

    A missing one is made, readable by its owner alone.

    Raises:
        ConfigurationError: A file cannot be read or made, or is empty.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = [*ROLES, *(secret_name(producer) for producer in producers)]
        return {name: hashlib.sha256(_secret(folder / name).encode()).hexdigest() for name in names}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"secrets in {folder}: {error}") from error


def _secret(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_text(encoding="utf-8").strip("\r\n")
        if not secret:
            raise ConfigurationError(f"secret {path}: empty, expected a password") from None
        return secret
    secret = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{secret}\n")
    return secret


def main(arguments: list[str] | None = None) -> int:
    """Print the ACL file of a deployment."""
    parser = argparse.ArgumentParser(prog="python -m clover.bus.acl", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--deployment", default="clover")
    parser.add_argument("--secrets", type=Path, help="folder of passwords, one file per role; missing ones are made")
    parser.add_argument("--producer", action="append", default=[], help="a producer with a user of its own (repeat)")
    options = parser.parse_args(arguments)
    try:
        digests = digests_of(options.secrets, options.producer) if options.secrets else {}
        sys.stdout.write(acl_rules(options.deployment, digests, options.producer))
    except CloverError as error:
        sys.stderr.write(f"clover: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
