"""Access rules on a real server: every role can do its work and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from guarded import DEPLOYMENT, KEYS, guarded
from support import a_checkpoint, a_plan, a_request, a_target, an_event, done, intensity, run, telemetry

from clover.bus.acl import ROLES, acl_rules, main, user_name
from clover.bus.keys import REGISTRY
from clover.bus.redis import RedisBus
from clover.bus.roles import Role
from clover.bus.values import Feed
from clover.errors import BusDeniedError, BusError, BusUnavailableError


async def work_of_generator(bus: RedisBus) -> None:
    await bus.ping()
    await bus.admit([a_request("r1"), a_request("r2", priority="high")], bound=10)
    await bus.known(["r1"])
    await bus.replies("generator", "0", block_s=0)
    await bus.plan()
    await bus.node_states()
    await bus.carbon_now()
    await bus.newest_id(Feed.EVENTS)
    await bus.follow({Feed.EVENTS: "0"}, block_s=0)
    await bus.publish(Feed.EVENTS, [an_event()])
    await bus.publish(Feed.LOG, [an_event()])
    await bus.beat("generator")


async def work_of_node(bus: RedisBus) -> None:
    taken = await bus.pull("c1", count=5, block_s=0.1)
    assert len(taken) == 2
    await bus.keep_alive("c1", taken)
    await bus.own_pending("c1")
    await bus.hand_back("c1", taken[1:])
    again = (await bus.claim("c1", min_idle_s=60, count=5)).deliveries
    assert await bus.finish([done(taken[0]), done(again[0], "three tries")]) == [True, True]
    await bus.sweep(grace_s=0)
    await bus.leave("c1")
    await bus.publish_telemetry(telemetry())
    await bus.publish(Feed.EVENTS, [an_event()])
    await bus.beat("node:n1")
    await bus.next_target("n1", after_epoch=0, block_s=0.01)


async def work_of_controller(bus: RedisBus) -> None:
    assert await bus.acquire_lease("c", ttl_s=60)
    assert await bus.publish_plan("c", a_plan(), [a_target()]) == 1
    assert await bus.update_plan("c", a_plan())
    await bus.target("n1")
    await bus.override()
    await bus.queue()
    await bus.reap(idle_s=60)
    await bus.sweep(grace_s=0)
    await bus.node_states()
    await bus.carbon_now()
    await bus.follow({Feed.CARBON: "0", Feed.TELEMETRY: "0"}, block_s=0.01)
    await bus.newest_id(Feed.CARBON)
    await bus.publish(Feed.EVENTS, [an_event()])
    await bus.beat("controller")
    await bus.release_lease("c")


async def work_of_monitor(bus: RedisBus) -> None:
    await bus.checkpoint()
    await bus.follow({Feed.TELEMETRY: "0"}, block_s=0)
    await bus.publish_carbon([intensity()], a_checkpoint())
    await bus.publish(Feed.EVENTS, [an_event()])
    await bus.beat("carbon")


async def work_of_dashboard(bus: RedisBus) -> None:
    await bus.follow(dict.fromkeys(Feed, "0"), block_s=0.01)
    for feed in Feed:
        await bus.newest_id(feed)
        assert (await bus.extent(feed)).length > 0
    assert await bus.plan() == a_plan(epoch=1)
    assert await bus.node_states()
    await bus.carbon_now()
    assert await bus.queue()
    assert set(await bus.alive()) == {"generator", "node:n1", "controller", "carbon"}


def test_every_role_can_do_its_work_and_an_operator_all_of_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            await world.buses["controller"].sweep(grace_s=0)
            await work_of_controller(world.buses["controller"])
            await work_of_generator(world.buses["generator"])
            await work_of_node(world.buses["node"])
            await work_of_monitor(world.buses["monitor"])
            await work_of_dashboard(world.buses["dashboard"])
            operator = world.buses["operator"]
            for work in (work_of_generator, work_of_monitor):
                await work(operator)
            await operator.finish([done(one) for one in await operator.pull("c2", count=5, block_s=0)])
            await world.raw["operator"].command("DEL", KEYS.dead)

    run(test())


def test_an_overdue_request_is_answered_under_the_rules(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            await world.buses["generator"].admit([a_request("r1", deadline_ms=1.0)], bound=10)
            assert (await world.buses["controller"].sweep(grace_s=0)).expired == ["r1"]
            await world.buses["generator"].admit([a_request("r2", deadline_ms=1.0)], bound=10)
            assert (await world.buses["node"].sweep(grace_s=0)).expired == ["r2"]
            assert len((await world.buses["generator"].replies("generator", "0", block_s=0))[0]) == 2

    run(test())


Call = Callable[[RedisBus], Awaitable[Any]]
DENIED: list[tuple[str, Role, Call]] = [
    ("a generator serves", "generator", lambda bus: bus.pull("c1", count=1, block_s=0)),
    ("a generator answers", "generator", lambda bus: bus.sweep(grace_s=0)),
    ("a generator plans", "generator", lambda bus: bus.acquire_lease("c", ttl_s=1)),
    ("a generator tells of nodes", "generator", lambda bus: bus.publish_telemetry(telemetry())),
    ("a generator tells of carbon", "generator", lambda bus: bus.publish_carbon([intensity()], a_checkpoint())),
    ("a node asks", "node", lambda bus: bus.admit([a_request("r1")], bound=10)),
    ("a node sends targets", "node", lambda bus: bus.send_by_hand(a_target())),
    ("a node plans", "node", lambda bus: bus.acquire_lease("c", ttl_s=1)),
    ("a node reads replies", "node", lambda bus: bus.replies("generator", "0", block_s=0)),
    ("a node tells of carbon", "node", lambda bus: bus.publish_carbon([intensity()], a_checkpoint())),
    ("a controller asks", "controller", lambda bus: bus.admit([a_request("r1")], bound=10)),
    ("a controller serves", "controller", lambda bus: bus.pull("c1", count=1, block_s=0)),
    ("a controller tells of carbon", "controller", lambda bus: bus.publish_carbon([intensity()], a_checkpoint())),
    ("a monitor asks", "monitor", lambda bus: bus.admit([a_request("r1")], bound=10)),
    ("a monitor serves", "monitor", lambda bus: bus.pull("c1", count=1, block_s=0)),
    ("a monitor plans", "monitor", lambda bus: bus.acquire_lease("c", ttl_s=1)),
    ("a dashboard asks", "dashboard", lambda bus: bus.admit([a_request("r1")], bound=10)),
    ("a dashboard serves", "dashboard", lambda bus: bus.pull("c1", count=1, block_s=0)),
    ("a dashboard plans", "dashboard", lambda bus: bus.acquire_lease("c", ttl_s=1)),
    ("a dashboard speaks", "dashboard", lambda bus: bus.publish(Feed.EVENTS, [an_event()])),
    ("a dashboard beats", "dashboard", lambda bus: bus.beat("dashboard")),
]


def test_no_role_can_do_what_is_not_its_work(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            for what, role, call in DENIED:
                with pytest.raises(BusDeniedError) as caught:
                    await call(world.buses[role])
                assert caught.value.hint, what
                assert not isinstance(caught.value, BusUnavailableError)

    run(test())


RAW: list[tuple[Role, tuple[str, ...]]] = [
    ("generator", ("XDEL", KEYS.requests, "1-1")),
    ("generator", ("XTRIM", KEYS.requests, "MAXLEN", "0")),
    ("generator", ("XADD", KEYS.replies("p1"), "*", "a", "b")),
    ("generator", ("XRANGE", KEYS.requests, "-", "+")),
    ("generator", ("DEL", KEYS.idempotency("r1"))),
    ("node", ("XTRIM", KEYS.requests, "MAXLEN", "0")),
    ("node", ("XADD", KEYS.target("n1"), "*", "a", "b")),
    ("node", ("DEL", KEYS.requests)),
    ("node", ("SET", KEYS.lease, "me")),
    ("controller", ("XTRIM", KEYS.requests, "MAXLEN", "0")),
    ("controller", ("HSET", KEYS.ledger, "d", "{}")),
    ("monitor", ("XADD", KEYS.requests, "*", "a", "b")),
    ("dashboard", ("XDEL", KEYS.feed(Feed.EVENTS), "1-1")),
    ("dashboard", ("XRANGE", KEYS.requests, "-", "+")),
    ("dashboard", ("HSET", KEYS.ledger, "d", "{}")),
]


def test_no_raw_command_gets_round_the_rules(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            everybody: list[tuple[str, ...]] = [
                ("FLUSHALL",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "appendonly", "no"), ("ACL", "LIST"),
                ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("CLIENT", "KILL", "ID", "1"),
                ("SCRIPT", "FLUSH"), ("MONITOR",), ("GET", "other"), ("XADD", "{other}:req", "*", "a", "b"),
                ("KEYS", "*"), ("MODULE", "LIST"), ("SAVE",),
            ]  # fmt: skip
            attempts = RAW + [(role, command) for role in ROLES for command in everybody]
            done_all_the_same: list[tuple[str, tuple[str, ...]]] = []
            for role, command in attempts:
                try:
                    await world.raw[role].command(*command)
                except BusDeniedError:
                    continue
                done_all_the_same.append((role, command))
            assert done_all_the_same == []
            # Nor does a script of one's own.
            text = "return redis.call('XDEL', KEYS[1], '1-1')"
            with pytest.raises(BusDeniedError):
                await world.raw["generator"].command("EVAL", text, 1, KEYS.requests)

    run(test())


def test_without_a_password_or_with_a_wrong_one_nobody_gets_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            name = user_name(DEPLOYMENT, "node")
            for login in ("", "node:wrong@", f"{name}:wrong@", f":{world.secrets['node']}@"):
                bus = RedisBus(f"redis://{login}127.0.0.1:{world.port}", DEPLOYMENT, "stranger")
                with pytest.raises(BusError) as caught:
                    await bus.ping()
                assert not isinstance(caught.value, BusUnavailableError)
                assert "CLOVER_REDIS_PASSWORD" in caught.value.hint
                assert world.secrets["node"] not in str(caught.value)
                await bus.close()

    run(test())


def test_a_dashboard_reads_on_behind_what_it_may_not_clear_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            await world.raw["operator"].command("XADD", KEYS.feed(Feed.EVENTS), "*", "junk", "junk")
            await world.buses["node"].publish(Feed.EVENTS, [an_event()])
            entries = await world.buses["dashboard"].follow({Feed.EVENTS: "0"}, block_s=0)
            assert [entry.message for entry in entries] == [an_event()]
            assert await world.raw["operator"].command("XLEN", KEYS.feed(Feed.EVENTS)) == 2

    run(test())


def test_the_rules_come_from_the_registry_and_hold_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--deployment", DEPLOYMENT, "--secrets", str(tmp_path)]) == 0
    rules = capsys.readouterr().out
    secrets = [(tmp_path / role).read_text().strip() for role in ROLES]
    assert len(set(secrets)) == len(ROLES)
    assert min(map(len, secrets)) >= 32
    assert not [secret for secret in secrets if secret in rules]
    assert {(tmp_path / role).stat().st_mode & 0o777 for role in ROLES} == {0o600}
    # Made once: who prints the rules again locks nobody out.
    assert main(["--deployment", DEPLOYMENT, "--secrets", str(tmp_path)]) == 0
    assert capsys.readouterr().out == rules
    for spec in REGISTRY:
        head = spec.pattern.replace("{d}", f"{{{DEPLOYMENT}}}").partition("<")[0]
        for role in spec.commands:
            [line] = [line for line in rules.splitlines() if line.startswith(f"user {user_name(DEPLOYMENT, role)} ")]
            assert f"~{head}" in line
    assert "user default off" in rules
    (tmp_path / "node").write_text("")
    assert main(["--secrets", str(tmp_path)]) == 3
    assert "empty" in capsys.readouterr().err


def test_without_secrets_nobody_is_let_in() -> None:
    lines = acl_rules(DEPLOYMENT, {}).splitlines()
    assert [line.split()[2] for line in lines] == ["off"] * (len(ROLES) + 1)


# --- producers with users of their own


def test_a_producer_of_its_own_reads_its_own_replies_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path, "p1", "p2") as world:
            first, second = (world.bus_of_producer(name) for name in ("p1", "p2"))
            await first.admit([a_request("r1", reply_to="p1")], bound=10)
            await second.admit([a_request("r2", reply_to="p2")], bound=10)
            assert await first.known(["r1"]) == [True]
            node = world.buses["node"]
            assert await node.finish([done(one) for one in await node.pull("c1", count=5, block_s=1)]) == [True, True]
            for bus, own, other in ((first, "p1", "p2"), (second, "p2", "p1")):
                assert len((await bus.replies(own, "0", block_s=0))[0]) == 1
                with pytest.raises(BusDeniedError):
                    await bus.replies(other, "0", block_s=0)
            # What all generators had in common is gone, or nothing would be gained.
            with pytest.raises(BusError, match="refuses the login"):
                await world.buses["generator"].ping()
            for bus in (first, second):
                await bus.close()

    run(test())


def test_a_producer_that_cannot_be_a_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", "a b", "../x", "*"):
        assert main(["--secrets", str(tmp_path), "--producer", name]) == 3
        assert "producer" in capsys.readouterr().err
    assert main(["--deployment", DEPLOYMENT, "--secrets", str(tmp_path), "--producer", "p1"]) == 0
    users = {line.split()[1]: line.split()[2] for line in capsys.readouterr().out.splitlines()}
    assert users[user_name(DEPLOYMENT, "generator")] == "off"
    assert users[user_name(DEPLOYMENT, "generator", "p1")] == "on"
