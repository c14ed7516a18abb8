"""What kind of GPUs a deployment has: backend, board, and the performance table that goes with them."""

from __future__ import annotations

from dataclasses import dataclass

from clover.core.application import ServiceModel
from clover.errors import ConfigurationError
from clover.plan.space import known_multisets
from mig.partition import maximal_multisets
from mig.profiles import GpuModel, gpu_model

BACKENDS = ("sim", "cpu", "nvml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What kind of GPUs a deployment has.

    Attributes:
        backend: `sim` (times from tables), `cpu` (real models on slices of a core) or `nvml` (real MIG GPUs).
        board: Whose MIG geometry is used.
        model: Application and table.
    """

    backend: str
    board: GpuModel
    model: ServiceModel

    @property
    def multisets(self) -> tuple[tuple[str, ...], ...]:
        """Partitions worth trying: the maximal ones, of profiles that the table knows."""
        return known_multisets(self.model, maximal_multisets(self.board))


def table_model(backend: str, board: str) -> str:
    """Return the GPU model whose performance table a backend needs."""
    if backend not in BACKENDS:
        raise ConfigurationError(f"backend {backend!r} is unknown or not built, expected one of {', '.join(BACKENDS)}")
    return "cpu" if backend == "cpu" else board


def make_fleet(*, backend: str, board: str, model: ServiceModel) -> Fleet:
    """Check that backend, board and application fit together."""
    if backend != "sim" and model.application.servicer == "table":
        raise ConfigurationError(
            f"application {model.application.name} has figures but no weights: the backend must be sim, not {backend}"
        )
    return Fleet(backend=backend, board=gpu_model(board), model=model)
