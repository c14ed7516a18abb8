"""`clover` as a process whose worker processes are `serving/fake_worker.py`: real deaths, and no model to load.

    python process_fake_workers.py agent node --backend cpu ...
    python process_fake_workers.py agent generator --backend cpu ...

Requests hold nothing, so that nothing of the extra `models` is needed.

`FAKE_WORKER_READY_S` is how long the servicer is told to wait until a worker is ready, instead of a minute.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli import real_models
from cli.main import main
from clover.serving import process

FAKE = (sys.executable, str(Path(__file__).parent / "serving" / "fake_worker.py"))
REAL = process.ProcessServicer


def servicer(*, settings: process.WorkerSettings, **beside: Any) -> process.ProcessServicer:
    ready_s = float(os.environ.get("FAKE_WORKER_READY_S", settings.ready_s))
    return REAL(command=FAKE, settings=replace(settings, ready_s=ready_s), **beside)


if __name__ == "__main__":
    process.ProcessServicer = servicer  # type: ignore[misc,assignment]
    real_models.inputs_of = lambda *_: (("application/octet-stream", b""),)
    sys.argv = ["clover", *sys.argv[1:]]
    main()
