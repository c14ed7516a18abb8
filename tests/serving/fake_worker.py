"""A worker without models, for tests: the variant it is asked to load says how it behaves.

Where the file `FAKE_WORKER_CRASHES` names the beginning of an instance's name, its worker dies under its first request;
where `FAKE_WORKER_HANGS` does, one that starts never says that it is ready.

It speaks the wire by itself, so that a change of the frames' meaning is noticed.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec


def read() -> dict[str, Any] | None:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        return None
    return msgspec.msgpack.decode(sys.stdin.buffer.read(struct.unpack(">I", head)[0]))


def write(**frame: Any) -> None:
    body = msgspec.msgpack.encode(frame)
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)
    sys.stdout.buffer.flush()


def wait_for_ever() -> None:
    # Nobody ever writes to this pipe.
    reader, _writer = os.pipe()
    os.read(reader, 1)


def write_garbage() -> None:
    sys.stdout.buffer.write(b"hello, I am a library that prints\n" * 4)
    sys.stdout.buffer.flush()
    wait_for_ever()


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def is_told(variable: str) -> bool:
    """Return whether the file that a variable names says the instance whose worker this is: the last argument."""
    path = Path(os.environ.get(variable, os.devnull))
    named = path.read_text().strip() if path.is_file() else ""
    return bool(named) and sys.argv[-1].startswith(named)


def serve(how: str, job: dict[str, Any]) -> None:
    if job["type"] == "ping":
        if how == "sleeps":
            wait_for_ever()
        write(type="pong")
        return
    if is_told("FAKE_WORKER_CRASHES"):
        say("the board has fallen off the bus")
        os._exit(3)
    match how:
        case "hangs":
            wait_for_ever()
        case "babbles":
            write_garbage()
        case "crashes":
            say("about to crash")
            os._exit(3)
        case "refuses" if job["payload"] == b"bad":
            write(type="refused", number=job["number"], reason="not a picture")
            return
        case "exhausts" if job["payload"] == b"large":
            write(type="exhausted", number=job["number"], reason="out of memory, the instance has 4864 MiB")
            return
    write(
        type="result",
        number=job["number"],
        content_type="text/plain",
        payload=job["payload"][::-1],
        cpu_s=0.25,
    )


def main() -> None:
    start = read()
    assert start is not None
    how = start["recipe"]["variant"]
    say(f"loading {how}")
    if is_told("FAKE_WORKER_HANGS"):
        wait_for_ever()
    match how:
        case "exits":
            for number in range(30):
                say(f"line {number}")
            sys.exit(7)
        case "never ready":
            wait_for_ever()
        case "babbles at start":
            write_garbage()
        case "fails":
            write(type="failed", reason="the weights are not the published ones", hint="reinstall")
            return
    write(type="ready", load_s=0.5, warm_up_s=0.1)
    while (job := read()) is not None:
        serve(how, job)
    if how == "never stops":
        wait_for_ever()


main()
