"""`clover mig helper`: changes GPUs for processes without rights."""

from __future__ import annotations

import asyncio
import grp
import logging
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import mig_source as source
from cli.output import tell

if TYPE_CHECKING:
    from mig.device import Gpu
    from mig.helper_policy import HelperPolicy

DEFAULT_SOCKET = Path("/run/clover-mig/helper.sock")


def helper(
    *,
    socket: Annotated[Path, typer.Option("--socket", help="Where to listen.")] = DEFAULT_SOCKET,
    user: Annotated[
        list[str] | None, typer.Option("--user", help="User who may ask, by name or number; repeatable.")
    ] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="Group whose members may ask; repeatable.")] = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="GPUs that may be used, such as 0,2-3 (default: all).")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option("--allow-profile", help="Profile that may be used, such as 3g; repeatable.")
    ] = None,
    allow_mode: Annotated[bool, typer.Option("--allow-mode", help="Let clients switch MIG mode too.")] = False,
    simulate: source.Simulate = None,
    state_dir: source.StateDir = None,
) -> None:
    """Do what needs rights for `--helper SOCKET` of other commands and node agents; runs until it is ended.

    Example: clover mig helper --user clover --gpu 0-3 --allow-profile 1g --allow-profile 2g
    """
    policy = _policy(user, group, profile, allow_mode=allow_mode)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def work(host: source.Host) -> None:
        chosen = host.chosen(gpu)
        _check_profiles(chosen, policy)
        await _serve(chosen, policy, socket)

    source.run_on(source.Source(simulate=simulate, helper=None, state_dir=state_dir), work)


async def _serve(gpus: list[Gpu], policy: HelperPolicy, path: Path) -> None:
    from clover.agents.runtime import stop_on_signals  # noqa: PLC0415 - keeps --help fast
    from mig.helper_server import HelperServer  # noqa: PLC0415

    numbers = ", ".join(str(gpu.index) for gpu in gpus)
    server = HelperServer(gpus, policy)
    stop: asyncio.Event = stop_on_signals()
    await server.serve(path, stop, ready=lambda: tell(f"helper for GPU {numbers} listens on {path}"))


def _policy(
    users: list[str] | None, groups: list[str] | None, profiles: list[str] | None, *, allow_mode: bool
) -> HelperPolicy:
    from mig.helper_policy import HelperPolicy  # noqa: PLC0415 - keeps --help fast

    return HelperPolicy(
        uids=frozenset(_number("--user", name, lambda each: pwd.getpwnam(each).pw_uid) for name in users or ()),
        gids=frozenset(_number("--group", name, lambda each: grp.getgrnam(each).gr_gid) for name in groups or ()),
        profiles=None if profiles is None else frozenset(profiles),
        mode=allow_mode,
    )


def _number(option: str, name: str, look_up: Callable[[str], int]) -> int:
    from clover.errors import ConfigurationError  # noqa: PLC0415 - keeps --help fast

    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        raise ConfigurationError(f"{option} {name!r}: expected a name or number that this host knows") from None


def _check_profiles(gpus: list[Gpu], policy: HelperPolicy) -> None:
    """Refuse a profile that no GPU has: it would be a typing slip."""
    for name in sorted(policy.profiles or ()):
        for gpu in gpus:
            gpu.model.profile(name)
