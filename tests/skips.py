"""Where CI is set everything must be there that a test needs: a skip that `allowed_skips.txt` does not name fails."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Generator
from pathlib import Path

import pytest

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def may_be_skipped(node_id: str, allowed: str) -> bool:
    """Return whether a list of patterns (one a line, `#` begins a comment) names a test."""
    patterns = [line.partition("#")[0].strip() for line in allowed.splitlines()]
    return any(fnmatch.fnmatchcase(node_id, pattern) for pattern in patterns if pattern)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    unexpected = report.skipped and not hasattr(report, "wasxfail") and bool(os.environ.get("CI"))
    if unexpected and not may_be_skipped(item.nodeid, ALLOWED_SKIPS.read_text()):
        report.outcome = "failed"
        report.longrepr = f"skipped where CI is set, and not in {ALLOWED_SKIPS.name}: {report.longrepr}"
    return report
