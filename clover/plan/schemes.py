"""The schemes by name."""

from __future__ import annotations

from clover.core.objective import LATE_LIMIT
from clover.errors import ConfigurationError
from clover.plan.evaluator import LiveEvaluator
from clover.plan.exact import ExactScheme
from clover.plan.fixed import FixedScheme
from clover.plan.problem import Parking, Scheme
from clover.plan.search import SearchScheme
from clover.plan.uniform import OracleScheme, ParkingScheme, ThresholdScheme

#: Schemes that a controller can run.
SCHEME_NAMES = ("base", "base_rightsized", "co2opt", "blover", "clover", "oracle", "threshold", "exact")
#: Schemes of experiments only: `clover_live` charges modelled exploration, `static` knows the whole trace.
EXPERIMENT_SCHEMES = (*SCHEME_NAMES, "clover_live", "static")


def is_fixed(name: str, parking: Parking) -> bool:
    """Return whether a scheme is one answer whatever happens: a reference to compare with, which nothing corrects."""
    return name == "base" or (name == "co2opt" and parking == "none")


def make_scheme(name: str, *, seed: int, faithful: bool = False) -> Scheme:
    """Return a scheme by name.

    Args:
        name: One of `SCHEME_NAMES`, or `clover_live`; `static` is made by `clover.plan.uniform.best_static`.
        seed: For the schemes that draw random configurations or simulate.
        faithful: Judge candidates that miss the SLA exactly as the original does.

    Raises:
        ConfigurationError: The name is unknown.
    """
    if name == "exact":
        return ExactScheme(seed=seed)
    if name == "oracle":
        return OracleScheme()
    if name == "base_rightsized":
        return ParkingScheme(FixedScheme("base").plan, name, always=True, limit=LATE_LIMIT)
    if name == "base":
        # BASE parks nothing by definition; with parking it is `base_rightsized`.
        return FixedScheme(name)
    inner = _uniform(name, seed=seed, faithful=faithful)
    if inner is None:
        raise ConfigurationError(f"scheme {name!r} is unknown, expected one of {', '.join(SCHEME_NAMES)}")
    return ParkingScheme(inner.plan, name)


def _uniform(name: str, *, seed: int, faithful: bool) -> Scheme | None:
    if name == "co2opt":
        return FixedScheme(name)
    if name in {"blover", "clover"}:
        return SearchScheme(name, seed=seed, faithful=faithful)
    if name == "clover_live":
        return SearchScheme("clover", seed=seed, faithful=faithful, evaluator=LiveEvaluator(seed=seed))
    return ThresholdScheme() if name == "threshold" else None
