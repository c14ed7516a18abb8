"""`clover generate` against a real deployment of real processes, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from archived import archived_rows
from processes import child_of, clover, descendants, result_of, started, within
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
        closed = _told(tmp_path, "--concurrency", "2", "--duration", "1s", "--run-name", "closed", "--no-archive")
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
    assert not (runs / "closed" / "archive").exists()

    exported = clover(tmp_path, "logs", "export", "two", str(tmp_path / "out"), "--json")
    checks = {check["name"]: check for check in json.loads(exported.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["agree"] is not True] == []
    assert checks["summary.sent"]["rows"] == 60
    asked = clover(
        tmp_path, "query", "select count(*), count(distinct producer) from requests", "--run", "two", "--json"
    )
    assert json.loads(asked.stdout)["rows"] == [[len(lines), 2]]
    report = clover(tmp_path, "report", "two", "--no-png")
    assert report.returncode == 0, report.stderr
    assert "No carbon is shown" not in (runs / "two" / "report" / "report.md").read_text()

    shown = json.loads(clover(tmp_path, "runs", "show", "two", "--json").stdout)
    assert shown["summary"] == two
    assert shown["run"]["hardware"]["gpus"] == {"n1": 1, "n2": 1}


def _loading(folder: Path, name: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started(
        folder, "generate", "--rate", "10", "--duration", "10m", "--run-name", name, "--wait", "60s", "--json"
    )


def _until_told(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}")


def test_ctrl_c_accounts_for_what_was_sent_and_a_second_one_ends_at_once(tmp_path: Path):
    own = ("up", "--gpus", "2", "--nodes", "1", "--no-generator", "--rate", "8", "--scheme", "co2opt", "--no-tui")
    runs = tmp_path / "runs"
    with started(tmp_path, *own, "--json") as service:
        with _loading(tmp_path, "first") as process:
            within(60, lambda: archived_rows(runs / "first"))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        told = json.loads(out)
        with _loading(tmp_path, "second") as process:
            within(60, lambda: archived_rows(runs / "second"))
            children = descendants(process.pid)
            # Requests in work stay there, so that the first Ctrl-C alone does not end it.
            node = within(5, lambda: child_of(service.pid, "node", "n1"))
            os.kill(node, signal.SIGSTOP)
            process.send_signal(signal.SIGINT)
            _until_told(process, "again stops at once")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            os.kill(node, signal.SIGCONT)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert out == ""
        within(10, lambda: not any(Path(f"/proc/{child}").exists() for child in children))
        service.send_signal(signal.SIGINT)
        result_of(service)
    assert told["interrupted"]
    counts = told["requests"]
    assert counts["sent"] == sum(counts[name] for name in ("ok", "late", "expired", "overloaded", "failed", "lost")) > 0
    assert counts["lost"] == 0
    records = {name: json.loads((runs / name / "run.json").read_text()) for name in ("first", "second")}
    assert {record["state"] for record in records.values()} == {"interrupted"}
    assert json.loads((runs / "first" / "summary.json").read_text()) == told
    assert len((runs / "first" / "requests.jsonl").read_text().splitlines()) == counts["sent"]
    assert archived_rows(runs / "first") == counts["sent"]
    assert json.loads((runs / "first" / "archive" / "manifest.json").read_text())["state"] == "closed"
    assert not (runs / "second" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_find_max_ends_between_a_rate_that_a_live_deployment_carries_and_one_that_it_does_not(tmp_path: Path):
    own = ("up", "--gpus", "2", "--no-generator", "--rate", "4", "--scheme", "base", "--no-tui", "--json")
    with started(tmp_path, *own) as service:
        asked = ("--find-max", "late<5%", "--rate", "5", "--samples", "150", "--tolerance", "0.6", "--warmup", "3s")
        answer = clover(tmp_path, "generate", "--json", "--wait", "60s", "--run-name", "max", *asked, limit_s=240.0)
        service.send_signal(signal.SIGINT)
        result_of(service)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    found = told["find_max"]
    # Two whole A100s with the largest variant are saturated above about 14 requests/s.
    assert 1.0 <= found["max_rate_rps"] <= 14.0
    assert found["max_rate_rps"] < found["lowest_missed_rps"] <= 1.6 * found["max_rate_rps"] + 1e-9
    assert found["outcome"].startswith("provisional")
    assert [trial["verdict"] for trial in found["trials"]].count("passed") >= 1
    assert not (tmp_path / "runs" / "max" / "archive").exists()
    lines = [line for line in answer.stderr.splitlines() if "missed" in line]
    assert len(lines) == len(found["trials"])


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
