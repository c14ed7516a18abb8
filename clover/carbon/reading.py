"""What all sources do with the figures and stamps that they are given."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from clover.carbon.port import BadReplyError, NoValueError, SourceTraits
from clover.core.carbon import MAX_INTENSITY_G_PER_KWH, CarbonIntensity, IntensityStatus
from clover.errors import ConfigurationError

#: WattTime's unit: one pound is 0.45359237 kg exactly (NIST SP 811), and 1 kg/MWh = 1 g/kWh.
G_PER_KWH_OF_LB_PER_MWH = 0.45359237


def utc_s(text: str, who: str, *, naive_is_utc: bool = False) -> float:
    """Return seconds since the epoch of an ISO 8601 stamp.

    Args:
        text: Such as `2026-01-20T12:00Z`.
        who: Source and field, for the message.
        naive_is_utc: Whether the source documents that its stamps without an offset are UTC.

    Raises:
        BadReplyError: Not a stamp, or without an offset where that is not documented.
    """
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise BadReplyError(f"{who}: {text!r} is not a time") from None
    if stamp.tzinfo is None:
        if not naive_is_utc:
            raise BadReplyError(f"{who}: {text!r} has no offset from UTC")
        stamp = stamp.replace(tzinfo=UTC)
    return stamp.timestamp()


def utc_text(at_s: float, form: str = "%Y-%m-%dT%H:%MZ") -> str:
    """Write a time for a source's address."""
    return datetime.fromtimestamp(at_s, UTC).strftime(form)


def reading(
    traits: SourceTraits,
    g_per_kwh: float,
    *,
    from_s: float,
    to_s: float,
    status: IntensityStatus,
    fetched_at_s: float,
    note: str = "",
) -> CarbonIntensity:
    """Build a reading of a source; raises BadReplyError if no grid can have that value or interval."""
    if not 0.0 <= g_per_kwh <= MAX_INTENSITY_G_PER_KWH:
        raise BadReplyError(f"{traits.name}: {g_per_kwh} g/kWh, expected 0 to {MAX_INTENSITY_G_PER_KWH:g}")
    if not from_s < to_s:
        raise BadReplyError(f"{traits.name}: an interval that ends before it begins")
    return CarbonIntensity(
        g_per_kwh=g_per_kwh,
        zone=traits.zone,
        from_s=from_s,
        to_s=to_s,
        kind=traits.kind,
        factor=traits.factor,
        status=status,
        source=traits.name,
        observed_to_s=to_s,
        fetched_at_s=fetched_at_s,
        note=note,
    )


def newest(readings: Iterable[CarbonIntensity], now_s: float, who: str) -> CarbonIntensity:
    """Return the newest reading whose interval has begun; raises NoValueError if there is none."""
    begun = [r for r in readings if r.from_s <= now_s]
    if not begun:
        raise NoValueError(f"{who}: no figure for now or before")
    return max(begun, key=lambda r: r.from_s)


class Secret:
    """A key from the environment or a file; it never shows itself in a message, a log or a traceback."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return it, for the request alone."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"


def secret(variable: str, what: str) -> Secret:
    """Read a secret from an environment variable, or from the file that `<variable>_FILE` names.

    Raises:
        ConfigurationError: Neither is set, the file cannot be read, or it is empty.
    """
    text = os.environ.get(variable, "")
    file = os.environ.get(f"{variable}_FILE", "")
    if not text and file:
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(f"{variable}_FILE = {file!r}: cannot be read") from None
    if not text.strip():
        raise ConfigurationError(
            f"{what} needs a key", hint=f"set {variable}, or {variable}_FILE to a file that holds it"
        )
    return Secret(text.strip())
