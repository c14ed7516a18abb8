"""Who may ask a helper for what, and who is the one writer of a GPU. Decisions only."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mig.errors import GpuLockedError, PermissionDeniedError
from mig.helper_protocol import HelperError

if TYPE_CHECKING:
    from mig.profiles import Profile

_CREDENTIALS: Final = struct.Struct("iII")
_GROUP: Final = struct.Struct("I")
#: Option of a Unix socket that gives the supplementary groups of the peer (Linux 4.13; not in Python's `socket`).
_SO_PEERGROUPS: Final = 59
#: Most that Python reads of a socket option, in bytes; enough for 256 groups.
_MOST_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a socket, as the kernel says.

    Attributes:
        pid, uid: Of the process when it connected.
        gids: Its group and supplementary groups.
    """

    pid: int
    uid: int
    gids: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who connected.

    Raises:
        OSError: It does not say.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        more = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError:
        more = b""
    return Peer(pid=pid, uid=uid, gids=frozenset({gid, *(group for (group,) in _GROUP.iter_unpack(more))}))


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperPolicy:
    """What a helper does and for whom.

    Attributes:
        uids: Users who may ask, beside root and the helper's own.
        gids: Groups whose members may ask.
        profiles: Sizes or names of the profiles that may be created and destroyed; None: all.
        mode: Whether MIG mode may be changed.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    profiles: frozenset[str] | None = None
    mode: bool = False

    def check_peer(self, peer: Peer) -> None:
        """Pass only if somebody may ask.

        Raises:
            PermissionDeniedError: He may not.
        """
        if peer.uid in {0, os.geteuid(), *self.uids} or peer.gids & self.gids:
            return
        raise PermissionDeniedError(
            f"user {peer.uid} may not use this helper: expected a user or group that it was started for",
            privilege="mig/config",
            hint="Start the helper with --user or --group for you.",
        )

    def check_profile(self, profile: Profile) -> None:
        """Pass only if instances of a profile may be created and destroyed.

        Raises:
            PermissionDeniedError: They may not.
        """
        if self.profiles is None or self.profiles & {profile.size, profile.name}:
            return
        raise PermissionDeniedError(
            f"profile {profile.size} ({profile.name}): expected one that the helper was started for, "
            f"{', '.join(sorted(self.profiles)) or 'none'}",
            privilege="mig/config",
            hint="Start the helper with --allow-profile for it.",
        )

    def check_mode(self) -> None:
        """Pass only if MIG mode may be changed.

        Raises:
            PermissionDeniedError: It may not.
        """
        if not self.mode:
            raise PermissionDeniedError(
                "the helper does not change MIG mode",
                privilege="root",
                hint="Start it with --allow-mode, or run `clover mig enable` as root.",
            )


@dataclass(slots=True)
class Writers:
    """Which process is the one writer of each GPU: the first to change it, until its last connection ends.

    It may have several connections: one that was broken off can overlap with the next.
    """

    _held: dict[int, tuple[int, set[Hashable]]] = field(default_factory=dict[int, tuple[int, set[Hashable]]])

    def claim(self, gpu: int, peer: Peer, connection: Hashable) -> None:
        """Be or become the writer of a GPU.

        Raises:
            GpuLockedError: Another process is.
        """
        pid, connections = self._held.setdefault(gpu, (peer.pid, set()))
        if pid != peer.pid:
            raise GpuLockedError(
                f"GPU {gpu} is changed by process {pid} through this helper: expected no other writer",
                hint="End it, or let it make the change.",
            )
        connections.add(connection)

    def release(self, connection: Hashable) -> None:
        """Forget a connection."""
        for gpu, (_, connections) in list(self._held.items()):
            connections.discard(connection)
            if not connections:
                del self._held[gpu]


def unknown_gpu(gpu: int, known: list[int]) -> HelperError:
    """The error of a GPU that the helper does not serve."""
    return HelperError(
        f"gpu {gpu}: expected one that the helper serves, {', '.join(map(str, known)) or 'none'}",
        hint="Start the helper with --gpu for it.",
    )
