"""Real models through the whole system: bus, controller, node agent, worker process, client."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clover.serving.availability import MODELS_HINT, missing_packages

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(bool(missing_packages("albert") or missing_packages()), reason=MODELS_HINT),
]


def clover(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    values = {name: value for name, value in os.environ.items() if not name.startswith("CLOVER_")}
    values |= {
        "PYTHONPATH": str(ROOT),
        "CLOVER_STATE_DIR": str(folder / "state"),
        "CLOVER_TRACES": str(ROOT / "traces"),
    }
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, cwd=folder, env=values, capture_output=True, text=True, timeout=300, check=False)


def test_albert_base_answers_through_the_whole_system(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The harbour was dug by hand. Ida Lorne led the work.")
    done = clover(
        tmp_path,
        *("infer", "--app", "albert", "--variant", "base", "--weights", "random", "--json"),
        *("--question", "Who led the work?", "--context-file", "text.txt"),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["variant"], answer["accuracy_pct"]) == ("ok", "base", 83.2)
    assert answer["result"]["weights"].startswith("random weights")
    assert answer["result"]["tokens"] > 10
    assert answer["energy_j"] > 0
    assert "random weights" in done.stderr


@pytest.mark.slow
def test_detection_answers_through_the_whole_system(tmp_path: Path) -> None:
    done = clover(
        tmp_path,
        "infer",
        "--app",
        "detection",
        "--variant",
        "r18",
        "--weights",
        "random",
        "--json",
        "chelsea",
        "rocket",
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["variant"]) == ("ok", "r18")
    assert len(answer["result"]["results"]) == 2
    assert answer["result"]["weights"].startswith("random weights")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--app", "albert"), 3, "--question is empty"),
        (("--app", "albert", "--question", " "), 3, "--question is empty"),
        (("--app", "albert", "--question", "Who?"), 3, "either --context or --context-file"),
        (("--app", "albert", "--question", "Who?", "--context", " "), 3, "the text is empty"),
        (("--app", "albert", "--question", "Who?", "--context-file", "none.txt"), 3, "none.txt"),
        (("--app", "albert", "--question", "Who?", "--context", "I.", "--variant", "tiny"), 3, "expected one of base"),
        (("--app", "albert", "--question", "Who?", "--context", "I.", "--weights", "none"), 3, "--weights = 'none'"),
        (("--app", "detection"), 3, "no picture was given"),
        (("--app", "none.toml", "chelsea"), 3, "none.toml"),
        (("large.png",), 3, "larger than 20 MB"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(65 * 2**20)
    done = clover(tmp_path, "infer", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert told in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_document_about_applications_works_word_by_word(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "applications.md").read_text()
    files = dict(re.findall(r"`(mobilenet\.\w+)`[^`]*:\n\n```\w+\n(.*?)```", text, flags=re.DOTALL))
    assert set(files) == {"mobilenet.toml", "mobilenet.py"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (block,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    told = []
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "clover"
        done = clover(tmp_path, *arguments)
        assert done.returncode == 0, (line, done.stderr)
        told.append(done.stdout + done.stderr)
    assert "random weights: the cost is real" in told[0]
    assert json.loads((tmp_path / "mobilenet.json").read_text())["variants"].keys() == {"narrow", "wide"}
    assert "random weights" in told[2]
    assert re.search(r"requests +sent \d+, ok \d+", told[3]), told[3]
