"""A real server with the generated access rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from servers import REDIS_SERVER, RealServer, required, running

from clover.bus.acl import ROLES, acl_rules, digests_of, secret_name, user_name
from clover.bus.key_names import Keys
from clover.bus.redis import RedisBus, RedisLink
from clover.bus.roles import Role

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

    def bus_of_producer(self, name: str) -> RedisBus:
        secret = self.secrets[secret_name(name)]
        return RedisBus(
            f"redis://{user_name(DEPLOYMENT, 'generator', name)}:{secret}@127.0.0.1:{self.port}", DEPLOYMENT, name
        )

    async def close(self) -> None:
        for one in (*self.buses.values(), *self.raw.values()):
            await one.close()


@asynccontextmanager
async def guarded(tmp_path: Path, *producers: str) -> AsyncIterator[Guarded]:
    required(REDIS_SERVER)
    rules = acl_rules(DEPLOYMENT, digests_of(tmp_path / "secrets", producers), producers)
    (tmp_path / "users.acl").write_text(rules)
    secrets = {file.name: file.read_text().strip() for file in (tmp_path / "secrets").iterdir()}
    server = RealServer(tmp_path / "server", f"aclfile {tmp_path}/users.acl")
    async with running(server):
        world = Guarded(server.port, secrets)
        try:
            yield world
        finally:
            await world.close()
