"""Which servers are fit: the judgement alone, on facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clover.bus.server_check import ServerFacts, check_server, facts_of

FIT = ServerFacts(
    product="redis", version=(7, 0, 15), policy="noeviction", maxmemory_bytes=0, append_only=True, snapshots=False,
    last_write_ok=True, replicas=0, supervised="", behind_sentinels=False, skew_s=0.01, accuracy_s=0.001,
)  # fmt: skip


def test_a_fit_server_has_no_findings():
    assert check_server(FIT) == []
    assert check_server(replace(FIT, product="valkey", version=(7, 2, 4))) == []
    assert check_server(replace(FIT, behind_sentinels=True, replicas=2, supervised="systemd")) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": (6, 2, 14)}, [("version", "error")]),
        ({"product": "valkey", "version": (7, 0, 15)}, [("version", "error")]),
        ({"policy": "allkeys-lru", "maxmemory_bytes": 1000}, [("eviction", "error")]),
        ({"policy": "volatile-ttl"}, [("eviction", "error")]),
        ({"policy": None, "maxmemory_bytes": None}, []),
        ({"append_only": False}, [("persistence", "warning")]),
        ({"append_only": False, "snapshots": True, "replicas": 1}, [("persistence", "warning")]),
        ({"append_only": None, "snapshots": None}, [("persistence", "warning")]),
        ({"append_only": False, "replicas": 1}, [("persistence", "warning"), ("volatile_primary", "warning")]),
        (
            {"append_only": False, "replicas": 1, "supervised": "systemd"},
            [("persistence", "warning"), ("volatile_primary", "error")],
        ),
        (
            {"append_only": False, "behind_sentinels": True},
            [("persistence", "warning"), ("volatile_primary", "error")],
        ),
        ({"last_write_ok": False}, [("disk", "error")]),
        ({"skew_s": 0.4}, [("clock", "warning")]),
        ({"skew_s": -3.0}, [("clock", "error")]),
        # A slow answer is no skew.
        ({"skew_s": 0.4, "accuracy_s": 0.5}, []),
    ],
)
def test_findings(change: dict[str, object], expected: list[tuple[str, str]]):
    found = check_server(replace(FIT, **change))  # type: ignore[arg-type]
    assert [(one.check, one.severity) for one in found] == expected
    assert all(one.text and one.remedy for one in found)


def test_what_keeps_data_is_marked_for_who_insists_on_it():
    bad = replace(FIT, version=(6, 0, 0), policy="allkeys-lru", append_only=False, skew_s=9.0)
    assert {one.check for one in check_server(bad) if one.durability} == {"eviction", "persistence"}


def test_facts_from_what_servers_say():
    info = {
        "redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2", "maxmemory_policy": "noeviction",
        "maxmemory": "0", "aof_enabled": "1", "connected_slaves": "2", "process_supervised": "no",
        "aof_last_write_status": "err",
    }  # fmt: skip
    facts = facts_of(info, save="", behind_sentinels=False, skew_s=0.0, accuracy_s=0.0)
    assert (facts.product, facts.version, facts.replicas) == ("valkey", (9, 1, 2), 2)
    assert (facts.append_only, facts.snapshots, facts.last_write_ok, facts.supervised) == (True, False, False, "")
    open_facts = facts_of({}, save=None, behind_sentinels=True, skew_s=0.0, accuracy_s=0.0)
    assert (open_facts.policy, open_facts.append_only, open_facts.snapshots) == (None, None, None)
