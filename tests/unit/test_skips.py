"""In CI a test that is skipped without being listed fails; shown on a suite of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skips import may_be_skipped

_SUITE = """
import pytest

def test_listed():
    pytest.skip("not here")

def test_unlisted():
    pytest.skip("nor here")

@pytest.mark.xfail(strict=True)
def test_known():
    assert False
"""


@pytest.mark.parametrize(("ci", "code", "told"), [("", 0, "2 skipped, 1 xfailed"), ("true", 1, "1 failed, 1 skipped")])
def test_an_unlisted_skip_fails_where_ci_is_set(tmp_path: Path, ci: str, code: int, told: str) -> None:
    shutil.copy(Path(__file__).parents[1] / "skips.py", tmp_path / "conftest.py")
    (tmp_path / "allowed_skips.txt").write_text("# why\n*::test_listed\n")
    (tmp_path / "test_suite.py").write_text(_SUITE)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, told in run.stdout) == (code, True), run.stdout


def test_patterns() -> None:
    listed = "# nothing\ntests/serving/*::test_a*  # no torch for this platform\n"
    assert may_be_skipped("tests/serving/test_x.py::test_a[1]", listed)
    assert not may_be_skipped("tests/serving/test_x.py::test_b", listed)
    assert not may_be_skipped("tests/serving/test_x.py::test_b", "#\n\n")
