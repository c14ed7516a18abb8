"""The schemes by name."""

from __future__ import annotations

from clover.errors import ConfigurationError
from clover.plan.exact import ExactScheme
from clover.plan.fixed import FixedScheme
from clover.plan.problem import Scheme
from clover.plan.search import SearchScheme

SCHEME_NAMES = ("base", "co2opt", "blover", "clover", "exact")


def make_scheme(name: str, *, seed: int, faithful: bool = False) -> Scheme:
    """Return a scheme by name.

    Args:
        name: One of `SCHEME_NAMES`.
        seed: For the schemes that draw random configurations.
        faithful: Judge candidates that miss the SLA exactly as the original does.

    Raises:
        ConfigurationError: The name is unknown.
    """
    if name in {"base", "co2opt"}:
        return FixedScheme(name)
    if name in {"blover", "clover"}:
        return SearchScheme(name, seed=seed, faithful=faithful)
    if name == "exact":
        return ExactScheme(seed=seed)
    raise ConfigurationError(f"scheme {name!r} is unknown, expected one of {', '.join(SCHEME_NAMES)}")
