"""Whether a server is fit to hold a deployment: facts, a pure judgement of them, and how the facts are read."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from clover.bus.link import Link
from clover.errors import BusError, BusUnavailableError

OLDEST_REDIS = (7, 0, 0)
OLDEST_VALKEY = (7, 2, 0)
#: Clocks of hosts that differ by more let deadlines pass too early or too late: said, and refused.
SKEW_TOLD_S, SKEW_REFUSED_S = 0.25, 1.0

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What there is to know about a server; None where it would not say.

    Attributes:
        product: `redis` or `valkey`.
        version: Of the product.
        policy: maxmemory-policy.
        maxmemory_bytes: 0 is no limit.
        append_only: Whether writes are appended to a file.
        snapshots: Whether snapshots are taken by themselves.
        last_write_ok: Whether the last write to disk succeeded.
        replicas: Connected ones.
        supervised: By what the server was started (`systemd`, `upstart`), empty if by nobody who says so.
        behind_sentinels: Whether it was found through sentinels.
        skew_s: Its clock minus ours.
        accuracy_s: Half of the round trip in which the clock was read: the skew is not known better.
    """

    product: Literal["redis", "valkey"]
    version: tuple[int, ...]
    policy: str | None
    maxmemory_bytes: int | None
    append_only: bool | None
    snapshots: bool | None
    last_write_ok: bool
    replicas: int
    supervised: str
    behind_sentinels: bool
    skew_s: float
    accuracy_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        check: Name of the check: `version`, `eviction`, `persistence`, `volatile_primary`, `disk`, `clock`.
        severity: `error`: requests get lost or wrong; `warning`: they may under circumstances.
        text: What was found, in one line.
        remedy: What to do, in one line.
        durability: Whether it is about keeping data, which `--require-durable` insists on.
    """

    check: str
    severity: Severity
    text: str
    remedy: str
    durability: bool = False


def check_server(facts: ServerFacts) -> list[Finding]:
    """Judge a server; an empty list is a fit one."""
    return [*_version(facts), *_eviction(facts), *_persistence(facts), *_volatile_primary(facts), *_disk(facts),
            *_clock(facts)]  # fmt: skip


def _version(facts: ServerFacts) -> list[Finding]:
    oldest = OLDEST_VALKEY if facts.product == "valkey" else OLDEST_REDIS
    if facts.version >= oldest:
        return []
    shown, wanted = (".".join(map(str, version)) for version in (facts.version, oldest))
    text = f"{facts.product} {shown} is too old: expected at least {wanted}"
    return [Finding(check="version", severity="error", text=text, remedy="install Redis >= 7.0 or Valkey >= 7.2")]


def _eviction(facts: ServerFacts) -> list[Finding]:
    if facts.policy in {None, "noeviction"}:
        return []
    limited = bool(facts.maxmemory_bytes)
    text = f"maxmemory-policy {facts.policy} " + (
        f"drops requests unanswered when {facts.maxmemory_bytes} bytes are full"
        if limited
        else "would drop requests unanswered as soon as maxmemory is set"
    )
    remedy = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
    return [Finding(check="eviction", severity="error", text=text, remedy=remedy, durability=True)]


def _persistence(facts: ServerFacts) -> list[Finding]:
    if facts.append_only:
        return []
    remedy = "set appendonly yes (and appendfsync everysec, or always)"
    if facts.append_only is None:
        text = "whether writes are kept on disk cannot be told: this user may not ask"
    elif facts.snapshots:
        text = "only snapshots are kept: a restart loses every request admitted since the last one"
    elif facts.snapshots is None:
        text = "no append-only file: a restart loses every request since the last snapshot, if there are any"
    else:
        text = "nothing is kept on disk: a restart loses every request and the energy ledger"
    return [Finding(check="persistence", severity="warning", text=text, remedy=remedy, durability=True)]


def _volatile_primary(facts: ServerFacts) -> list[Finding]:
    """A primary without data that comes back before its failover empties its replicas as well."""
    replicated = facts.behind_sentinels or facts.replicas > 0
    if not replicated or facts.append_only is not False or facts.snapshots:
        return []
    how = f" ({facts.supervised} restarts it by itself)" if facts.supervised else ""
    text = (
        f"a primary in memory alone{how}: restarted before its failover, it comes back empty and empties its replicas"
    )
    remedy = "set appendonly yes, or let nothing restart it within down-after-milliseconds + 2 s"
    severity: Severity = "error" if facts.supervised or facts.behind_sentinels else "warning"
    return [Finding(check="volatile_primary", severity=severity, text=text, remedy=remedy, durability=True)]


def _disk(facts: ServerFacts) -> list[Finding]:
    if facts.last_write_ok:
        return []
    text = "the last write to disk failed: what was acknowledged since is in doubt"
    return [Finding(check="disk", severity="error", text=text, remedy="free its disk; see the server's log",
                    durability=True)]  # fmt: skip


def _clock(facts: ServerFacts) -> list[Finding]:
    sure_s = abs(facts.skew_s) - facts.accuracy_s
    if sure_s < SKEW_TOLD_S:
        return []
    effect = "early" if facts.skew_s > 0 else "late"
    text = f"the server's clock is {facts.skew_s:+.2f} s off ours: deadlines pass too {effect}"
    severity: Severity = "error" if sure_s >= SKEW_REFUSED_S else "warning"
    return [Finding(check="clock", severity=severity, text=text, remedy="run an NTP client on both hosts")]


# --- reading the facts


async def read_facts(link: Link, *, behind_sentinels: bool) -> ServerFacts:
    """Ask a server; what the user may not ask stays open.

    Raises:
        BusError: It does not answer, or not even this is allowed.
    """
    before_s = time.time()
    seconds, microseconds = await link.command("TIME")
    after_s = time.time()
    info: dict[str, str] = {}
    for section in ("server", "memory", "persistence", "replication"):
        info |= _fields((await link.command("INFO", section)).decode())
    return facts_of(
        info,
        save=await _snapshots(link),
        behind_sentinels=behind_sentinels,
        skew_s=int(seconds) + int(microseconds) / 1e6 - (before_s + after_s) / 2.0,
        accuracy_s=(after_s - before_s) / 2.0,
    )


async def _snapshots(link: Link) -> str | None:
    try:
        answer = await link.command("CONFIG", "GET", "save")
    except BusUnavailableError:
        raise
    except BusError:
        return None
    return answer[1].decode() if len(answer) > 1 else ""


def facts_of(
    info: Mapping[str, str], *, save: str | None, behind_sentinels: bool, skew_s: float, accuracy_s: float
) -> ServerFacts:
    """Return the facts that stand in the fields of INFO and the setting `save` (None: not known)."""
    valkey = info.get("server_name") == "valkey"
    version = info.get("valkey_version" if valkey else "redis_version", "0")
    supervised = info.get("process_supervised", "no")
    append_only = info.get("aof_enabled")
    states = (info.get(name, "ok") for name in ("aof_last_write_status", "aof_last_bgrewrite_status"))
    return ServerFacts(
        product="valkey" if valkey else "redis",
        version=tuple(int(number) for number in re.findall(r"\d+", version)[:3]),
        policy=info.get("maxmemory_policy"),
        maxmemory_bytes=int(info["maxmemory"]) if "maxmemory" in info else None,
        append_only=None if append_only is None else append_only == "1",
        snapshots=None if save is None else bool(save),
        last_write_ok=all(state == "ok" for state in states),
        replicas=int(info.get("connected_slaves", "0")),
        supervised="" if supervised in {"no", "unknown"} else supervised,
        behind_sentinels=behind_sentinels,
        skew_s=skew_s,
        accuracy_s=accuracy_s,
    )


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, colon, value in pairs if colon}
