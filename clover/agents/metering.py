"""Reads the meters of a node at each tick and hands them to the accounts; keeps the newest counters for a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from clover.core.application import ServiceModel
from clover.core.clock import Clock
from clover.power.account import GpuAccount
from clover.power.port import GpuMeter, HostMeter
from mig.device import Gpu

#: A meter that has not answered after this long is unknown at this tick.
READ_WITHIN_S = 2.0


class CounterStore:
    """The newest counter of each GPU by its UUID, in a file, so that a restart knows what was used meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, float]:
        """Return joules by UUID; empty if there is no file, or not one of ours."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.MsgspecError):
            return {}

    def save(self, counters_j: Mapping[str, float]) -> None:
        """Write them whole or not at all; a full disk costs the exactness of the next start, not the run."""
        partial = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(dict(counters_j)))
            partial.replace(self._path)
        except OSError:
            return


class NodeMetering:
    """The meters of one node.

    Args:
        clock: Wall time.
        gpus: Meter of each GPU that has one, by its UUID.
        host: Meter of the host, if there is one.
        store: Where counters are kept over a restart.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        gpus: Mapping[str, GpuMeter] | None = None,
        host: HostMeter | None = None,
        store: CounterStore | None = None,
    ) -> None:
        self._clock = clock
        self._gpus = dict(gpus or {})
        self._host = host
        self._store = store
        self._kept = store.load() if store is not None else {}
        self._accounts: dict[str, GpuAccount] = {}
        #: Joules of the host since the node's boot; None until, and unless, it is metered.
        self.host_j: float | None = None

    @property
    def host_source(self) -> str:
        """Label of `host_j`; empty if the host is not metered."""
        return self._host.source if self._host is not None else ""

    def energy_source(self, modelled: str) -> str:
        """Return the label of the GPUs' joules: of their meter, or what the servicer's model is called."""
        return next((meter.source for meter in self._gpus.values()), modelled)

    def metered(self, uuid: str) -> bool:
        """Return whether a GPU has a meter."""
        return uuid in self._gpus

    def last_counter_j(self, uuid: str) -> float | None:
        """Return what a GPU's counter said when the last agent looked."""
        return self._kept.get(uuid)

    def book_into(self, uuid: str, account: GpuAccount) -> None:
        """Say where the readings of a GPU go."""
        if uuid in self._gpus:
            self._accounts[uuid] = account

    def account(self, gpu: Gpu, model: ServiceModel) -> GpuAccount:
        """Open the account of a GPU: idle and parked watts are the table's, and what works draws as it expects."""

        def dynamic_power_w(variant: str, profile: str) -> float:
            return model.dynamic_j(variant, 0.0) / (model.mean_ms(variant, profile, 0.0) / 1e3)

        account = GpuAccount(
            idle_power_w=model.table.idle_power_w,
            parked_power_w=model.table.parked_power_w,
            compute_slices=gpu.model.compute_slices,
            now_s=self._clock.now_s(),
            dynamic_power_w=dynamic_power_w,
            metered=self.metered(gpu.uuid),
            last_counter_j=self.last_counter_j(gpu.uuid),
        )
        self.book_into(gpu.uuid, account)
        return account

    async def read(self) -> None:
        """Read all meters; one that does not answer in time is unknown, and its next reading has it all."""
        if self._host is not None:
            host_j = self._host.read_j()
            self.host_j = self.host_j if host_j is None else host_j
        if not self._accounts:
            return
        async with asyncio.TaskGroup() as group:
            for uuid, account in self._accounts.items():
                group.create_task(self._read_one(self._gpus[uuid], account))
        if self._store is not None:
            counters = {uuid: account.counter_j for uuid, account in self._accounts.items()}
            self._store.save({uuid: joules for uuid, joules in counters.items() if joules is not None})

    async def _read_one(self, meter: GpuMeter, account: GpuAccount) -> None:
        try:
            async with asyncio.timeout(READ_WITHIN_S):
                counter_j = await meter.read_j()
        except TimeoutError:
            return
        if counter_j is not None:
            account.take_counter(counter_j, self._clock.now_s())
