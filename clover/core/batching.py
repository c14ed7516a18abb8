"""Serving several requests with one inference: how many, and how long the first may wait for the others. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from clover.core.application import PerformanceTable, ServiceModel

#: Most requests of one batch.
MAX_BATCH_SIZE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Off unless `max_batch_size` is above 1.

    A performance table holds for one batch size, which must be the one that is served (`check`). It says what full
    batches take, so predictions and certificates are for those; what is put out says so (`text`).

    Attributes:
        max_batch_size: Most requests that one instance answers together.
        max_queue_delay_s: A request that could begin waits for others until it has waited so long since it was due.
    """

    max_batch_size: int = 1
    max_queue_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise ValueError(f"max_batch_size = {self.max_batch_size}: expected 1 to {MAX_BATCH_SIZE}")
        if not (math.isfinite(self.max_queue_delay_s) and self.max_queue_delay_s >= 0.0):
            raise ValueError(f"max_queue_delay = {self.max_queue_delay_s} s: expected a finite time, 0 or more")
        if self.max_queue_delay_s > 0.0 and not self.is_on:
            raise ValueError(
                f"max_queue_delay = {self.max_queue_delay_ms:g} ms with max_batch_size = 1: expected 0, "
                "a request alone has nobody to wait for"
            )

    @property
    def is_on(self) -> bool:
        """Whether any batch has more than one request."""
        return self.max_batch_size > 1

    @property
    def max_queue_delay_ms(self) -> float:
        """The delay in ms."""
        return self.max_queue_delay_s * 1e3

    @property
    def text(self) -> str:
        """For people, in one line; empty if it is off."""
        if not self.is_on:
            return ""
        return f"size {self.max_batch_size}, delay {self.max_queue_delay_ms:g} ms; predictions are for full batches"

    def check_table(self, table: PerformanceTable) -> None:
        """Refuse a table that was measured with batches of another size.

        Raises:
            ValueError: It was.
        """
        if table.batch_size != self.max_batch_size:
            raise ValueError(
                f"performance table of {table.application} on {table.gpu_model}: batch_size = {table.batch_size}, "
                f"expected {self.max_batch_size}, the --max-batch-size that is served"
            )

    def planned_with(self, model: ServiceModel) -> ServiceModel:
        """Return what to plan with: the first of a batch waits for the others, which is a part of its transport."""
        if not self.max_queue_delay_s:
            return model
        table = replace(model.table, transport_ms=model.table.transport_ms + self.max_queue_delay_ms)
        return replace(model, table=table)

    def check(self, model: ServiceModel, sla_ms: float) -> None:
        """Refuse what no instance could ever keep: delay + the fastest full batch must be below the SLA.

        Each worker measures its own when it loads, and an instance whose batches take too long serves requests singly
        (`clover.agents.batches`).

        Raises:
            ValueError: It cannot be kept.
        """
        if not self.is_on:
            return
        fastest_ms = min(
            performance.host_ms + service_ms
            for performance in model.table.variants.values()
            for service_ms in performance.service_ms.values()
        )
        if self.max_queue_delay_ms + fastest_ms >= sla_ms:
            raise ValueError(
                f"max_queue_delay = {self.max_queue_delay_ms:g} ms: expected below {max(0.0, sla_ms - fastest_ms):g} "
                f"ms, the SLA of {sla_ms:g} ms less the {fastest_ms:g} ms of the fastest batch"
            )
