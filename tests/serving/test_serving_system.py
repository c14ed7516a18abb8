"""Real models through the whole system: bus, controller, node agent, worker process, client."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
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


#: What `export.py` of YOLOv5 writes: 85 columns a box, here the same box for every picture.
EXPORT = """
import sys
import torch

class Boxes(torch.nn.Module):
    def forward(self, x):
        row = torch.zeros(1, 85)
        row[0, :6] = torch.tensor([320.0, 320.0, 200.0, 100.0, 0.9, 0.9])
        return row.repeat(x.shape[0], 1, 1)

for path in sys.argv[1:]:
    torch.jit.script(Boxes()).save(path)
"""


def test_an_export_to_torchscript_works_as_the_document_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "applications.md").read_text()
    _, section = text.split("## A TorchScript file")
    (toml, command) = re.findall(r"\n\n((?:    .*\n|\n)+)", section.partition("\n## ")[0])
    (tmp_path / "mine.toml").write_text(textwrap.dedent(toml))
    # TorchScript reads the source, so that it must be a file.
    (tmp_path / "export.py").write_text(EXPORT)
    exports = [str(tmp_path / name) for name in re.findall(r'weights = "(.*)"', toml)]
    assert len(exports) == 2
    subprocess.run([sys.executable, "-W", "ignore", str(tmp_path / "export.py"), *exports], check=True)
    program, *arguments = shlex.split(command)
    assert program == "clover"
    done = clover(tmp_path, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["variant"], answer["accuracy_pct"]) == ("l", 49.0)
    (found,) = answer["result"]["detections"]
    assert (found["label"], found["score"]) == ("person", pytest.approx(0.81))


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
