"""`clover generate` against a real deployment of real processes, and what it refuses."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from processes import clover, result_of, started
from typer.testing import CliRunner

from cli.main import app
from clover.errors import ConfigurationError


def _told(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    answer = clover(folder, "generate", "--json", *arguments, limit_s=90.0)
    assert answer.returncode == code, answer.stderr
    return json.loads(answer.stdout)


def test_a_deployment_without_requests_of_its_own_is_loaded_from_outside(tmp_path: Path):
    own = ("up", "--gpus", "2", "--no-generator", "--rate", "8", "--scheme", "co2opt", "--no-tui", "--json")
    with started(tmp_path, *own) as process:
        # Nobody waits by sleeping: the first load test waits until the plan is in force.
        conditions = ("--fail-if", "lost>0", "--fail-if", "p50>0.001ms")
        two = _told(
            tmp_path, "--wait", "60s", "--processes", "2", "--count", "60", "--rate", "12", "--warmup", "1s",
            "--priority-share", "0.5", "--run-name", "two", *conditions, code=10,
        )  # fmt: skip
        closed = _told(tmp_path, "--concurrency", "2", "--duration", "1s", "--run-name", "closed")
        process.send_signal(signal.SIGINT)
        whole = result_of(process)
    assert two["requests"]["sent"] == 60
    assert two["loop"] == "open"
    assert two["warmup_requests"] > 0
    assert [one["failed"] for one in two["conditions"]] == [False, True]
    assert two["latency_from_due"]["p99.9"]["note"] == "too few samples: 60, expected at least 3688"
    assert two["energy_j_per_request"] > 0.0
    assert two["whole_deployment"]["saved_pct"] is not None

    assert closed["loop"] == "closed"
    assert closed["arrivals"] == "closed loop, 2 users"

    runs = tmp_path / "runs"
    lines = [
        json.loads(line)
        for path in sorted((runs / "two").glob("requests-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert sum(not line["warmup"] for line in lines) == 60
    assert len({line["id"] for line in lines}) == len(lines) == 60 + two["warmup_requests"]
    assert {line["priority"] for line in lines} == {"normal", "high"}
    closed_lines = (runs / "closed" / "requests.jsonl").read_text().splitlines()
    assert whole["arrivals"] == "poisson, open loop; closed loop, 2 users"
    assert whole["requests"]["sent"] == len(lines) + len(closed_lines)
    assert (runs / "closed" / "latency.hgrm").read_text().startswith("#[loop = closed")
    shown = json.loads(clover(tmp_path, "runs", "show", "two", "--json").stdout)
    assert shown["summary"] == two
    assert shown["run"]["hardware"]["gpus"] == {"n1": 1, "n2": 1}


def test_no_deployment_is_said(tmp_path: Path):
    answer = clover(tmp_path, "generate", "--duration", "1s")
    assert answer.returncode == 4
    assert "no server is known" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--rate", "0"), "--rate = 0"),
        (("--arrivals", "weibull"), "arrivals = 'weibull'"),
        (("--shape", "square"), "shape = 'square'"),
        (("--shape", "sine", "--peak", "3"), "peak = 3: expected a number from 1 to 2"),
        (("--concurrency", "2", "--rate", "3"), "--rate and --concurrency: expected one of them"),
        (("--concurrency", "2", "--shape", "sine"), "--concurrency and --shape"),
        (("--concurrency", "2", "--find-max", "late<5%"), "--find-max and --concurrency"),
        (("--concurrency", "2", "--processes", "3"), "--processes = 3: expected at most --concurrency = 2"),
        (("--speed", "2x"), "--speed and --scale-to: expected a --load-trace"),
        (("--trace", "x.csv", "--speed", "fast"), "--speed = 'fast'"),
        (("--priority-share", "2"), "--priority-share, --min-accuracy"),
        (("--min-accuracy", "best"), "--min-accuracy = 'best'"),
        (("--min-accuracy", "101"), "--min-accuracy = '101'"),
        (("--fail-if", "p95=1"), "--fail-if 'p95=1'"),
        (("--find-max", "lost<1"), "--find-max 'lost<1'"),
        (("--tolerance", "0"), "--tolerance = 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_asked(arguments: tuple[str, ...], told: str):
    error = CliRunner().invoke(app, ["generate", *arguments]).exception
    assert isinstance(error, ConfigurationError)
    assert told in str(error)
