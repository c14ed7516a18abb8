"""A part of the diurnal ramp as a process of its own: what happened, then the figures, then a digest of every message.

    python process_ramp.py FROM_HOUR HOURS

One line of JSON each; equal output means that two runs were equal to the byte.
"""

from __future__ import annotations

import hashlib
import json
import sys

import msgspec

from clover.bus.messages import Event, Message
from clover.sim.diurnal import DiurnalSettings, run_diurnal


def main(from_h: float, hours: float) -> None:
    digest = hashlib.sha256()

    def watch(message: Message) -> None:
        encoded = msgspec.json.encode(message)
        digest.update(encoded)
        if isinstance(message, Event):
            sys.stdout.write(encoded.decode() + "\n")

    result = run_diurnal(DiurnalSettings(from_h=from_h, hours=hours), watch=watch)
    sys.stdout.write(json.dumps(result) + "\n" + json.dumps(digest.hexdigest()) + "\n")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
