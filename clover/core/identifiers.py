"""Identifiers whose time and randomness are given from outside, so that a seeded run repeats to the byte."""

from __future__ import annotations

from random import Random


def uuid7(now_ms: float, rng: Random) -> str:
    """Return a UUID version 7 (RFC 9562): 48 bits of milliseconds, then randomness."""
    milliseconds = int(now_ms) & 0xFFFF_FFFF_FFFF
    random_a, random_b = rng.getrandbits(12), rng.getrandbits(62)
    value = milliseconds << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
