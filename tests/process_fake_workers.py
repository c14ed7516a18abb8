"""`clover` as a process whose worker processes are `serving/fake_worker.py`: real deaths, and no model to load.

    python process_fake_workers.py agent node --backend cpu ...
    python process_fake_workers.py agent generator --backend cpu ...

Requests hold nothing, so that nothing of the extra `models` is needed.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from cli import real_models
from cli.main import main
from clover.serving import process

FAKE = (sys.executable, str(Path(__file__).parent / "serving" / "fake_worker.py"))

if __name__ == "__main__":
    process.ProcessServicer = functools.partial(process.ProcessServicer, command=FAKE)  # type: ignore[misc,assignment]
    real_models.inputs_of = lambda *_: (("application/octet-stream", b""),)
    sys.argv = ["clover", *sys.argv[1:]]
    main()
