"""Access rules and TLS on a real server: every role can do its work and nothing else, and no secret is shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import OPENSSL, REDIS_SERVER, RealServer, certificates, required, running
from support import a_checkpoint, a_plan, a_request, a_target, an_event, done, intensity, run, telemetry

from clover.bus.acl import ROLES, acl_rules, digests_of, main, user_name
from clover.bus.keys import REGISTRY, Keys, Role
from clover.bus.port import Feed
from clover.bus.redis import RedisBus, RedisLink
from clover.errors import BusDeniedError, BusError, BusUnavailableError

DEPLOYMENT = "guarded"
KEYS = Keys(DEPLOYMENT)


class Guarded:
    """A server with the generated rules, and a bus and a raw link for each role."""

    def __init__(self, port: int, secrets: dict[str, str]) -> None:
        self.port = port
        self.secrets = secrets
        self.buses = {role: RedisBus(self.url(role), DEPLOYMENT, role) for role in ROLES}
        self.raw = {role: RedisLink(self.url(role), f"raw-{role}") for role in ROLES}

    def url(self, role: Role) -> str:
        return f"redis://{user_name(DEPLOYMENT, role)}:{self.secrets[role]}@127.0.0.1:{self.port}"

    async def close(self) -> None:
        for one in (*self.buses.values(), *self.raw.values()):
            await one.close()


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    required(REDIS_SERVER)
    rules = acl_rules(DEPLOYMENT, digests_of(tmp_path / "secrets"))
    (tmp_path / "users.acl").write_text(rules)
    secrets = {role: (tmp_path / "secrets" / role).read_text().strip() for role in ROLES}
    server = RealServer(tmp_path / "server", f"aclfile {tmp_path}/users.acl")
    async with running(server):
        world = Guarded(server.port, secrets)
        try:
            yield world
        finally:
            await world.close()


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


# --- TLS


def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    required(REDIS_SERVER, OPENSSL)
    files = certificates(tmp_path)

    async def test() -> None:
        server = RealServer(tmp_path / "server")
        server._settings = (
            "port 0", f"tls-port {server.port}", f"tls-cert-file {files['server']}",
            f"tls-key-file {files['server_key']}", f"tls-ca-cert-file {files['ca']}", "tls-auth-clients yes",
        )  # fmt: skip
        async with running(server):
            place = f"127.0.0.1:{server.port}"
            mutual = f"ca={files['ca']}&cert={files['client']}&key={files['client_key']}"
            bus = RedisBus(f"rediss://{place}?{mutual}", DEPLOYMENT, "tls")
            await bus.admit([a_request("r1")], bound=10)
            assert len(await bus.pull("c1", count=1, block_s=1)) == 1
            await bus.close()
            stranger = f"ca={files['stranger']}&cert={files['client']}&key={files['client_key']}"
            for url in (
                f"rediss://{place}?{stranger}",
                f"rediss://{place}",
                f"rediss://localhost:{server.port}?{mutual}",
            ):
                bus = RedisBus(url, DEPLOYMENT, "tls")
                with pytest.raises(BusError, match="trust") as caught:
                    await bus.ping()
                assert not isinstance(caught.value, BusUnavailableError)
                assert "CLOVER_REDIS_CA" in caught.value.hint
                await bus.close()
            # Without a certificate of one's own, and without TLS at all.
            for url in (f"rediss://{place}?ca={files['ca']}", f"redis://{place}"):
                bus = RedisBus(url, DEPLOYMENT, "plain")
                with pytest.raises(BusError):
                    await bus.ping()
                await bus.close()

    run(test())


# --- the command line


def test_no_command_shows_the_password(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            secret = world.secrets["dashboard"]
            user = user_name(DEPLOYMENT, "dashboard")
            environment = {"CLOVER_REDIS": f"redis://{user}:{secret}@127.0.0.1:{world.port}"}
            by_file = {
                "CLOVER_REDIS": f"redis://127.0.0.1:{world.port}", "CLOVER_REDIS_USERNAME": user,
                "CLOVER_REDIS_PASSWORD_FILE": str(tmp_path / "secrets" / "dashboard"),
            }  # fmt: skip
            wrong = {"CLOVER_REDIS": f"redis://{user}:{secret}-wrong@127.0.0.1:{world.port}", "CLOVER_DEBUG": "1"}
            for variables, code in ((environment, 0), (by_file, 0), (wrong, 4)):
                result = await asyncio.to_thread(clover, "status", "--deployment", DEPLOYMENT, **variables)
                assert result.returncode == code, result.stderr
                assert secret not in result.stdout + result.stderr

    run(test(), limit_s=60)


def shown_by(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*.log"))


@pytest.mark.slow
def test_up_runs_as_the_operator_and_shows_its_password_nowhere(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            secret, state = world.secrets["operator"], tmp_path / "state"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cli", "up", "--deployment", DEPLOYMENT, "--gpus", "2", "--duration", "5s",
                "--no-tui", "--json", "--state-dir", str(state),
                env={
                    **os.environ, "CLOVER_REDIS": f"redis://127.0.0.1:{world.port}",
                    "CLOVER_REDIS_USERNAME": user_name(DEPLOYMENT, "operator"),
                    "CLOVER_REDIS_PASSWORD_FILE": str(tmp_path / "secrets" / "operator"),
                },
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            arguments: set[str] = set()
            output = asyncio.create_task(process.communicate())
            while not output.done():
                arguments |= set(command_lines())
                await asyncio.sleep(0.2)
            out, err = await output
            assert process.returncode == 0, err.decode()
            assert json.loads(out)["requests"]["lost"] == 0
            ours = [line for line in arguments if "agent" in line and DEPLOYMENT in line]
            assert len(ours) >= 5
            for text in (*arguments, out.decode(), err.decode(), shown_by(tmp_path)):
                assert secret not in text
            assert secret not in "".join(path.read_text() for path in state.glob("*.json"))

    run(test(), limit_s=110.0)


def command_lines() -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def clover(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
