"""Values that a shell completes; from what is installed, never from a server."""

from __future__ import annotations

from collections.abc import Iterable


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def applications(incomplete: str) -> list[str]:
    """Return the applications of the catalogue."""
    from clover.catalog import application_names  # noqa: PLC0415 - only a shell asks

    return _beginning(application_names(), incomplete)


def traces(incomplete: str) -> list[str]:
    """Return the traces that are installed."""
    from clover.catalog import trace_names  # noqa: PLC0415 - only a shell asks

    return _beginning(trace_names(), incomplete)


def schemes(incomplete: str) -> list[str]:
    """Return the planning schemes."""
    from clover.plan.schemes import SCHEME_NAMES  # noqa: PLC0415 - only a shell asks

    return _beginning(SCHEME_NAMES, incomplete)


def boards(incomplete: str) -> list[str]:
    """Return the boards whose MIG rules are known."""
    from mig.profiles import GPU_MODELS  # noqa: PLC0415 - only a shell asks

    return _beginning(GPU_MODELS, incomplete)


def backends(incomplete: str) -> list[str]:
    """Return the backends."""
    return _beginning(("sim", "cpu", "nvml"), incomplete)


def parkings(incomplete: str) -> list[str]:
    """Return what may become of GPUs that are not needed."""
    return _beginning(("none", "parked", "off"), incomplete)


def processes(incomplete: str) -> list[str]:
    """Return how requests may arrive."""
    from clover.core.arrivals import PROCESSES  # noqa: PLC0415 - only a shell asks

    return _beginning(PROCESSES, incomplete)


def shapes(incomplete: str) -> list[str]:
    """Return how a rate may move."""
    from clover.core.arrivals import SHAPES  # noqa: PLC0415 - only a shell asks

    return _beginning(SHAPES, incomplete)
