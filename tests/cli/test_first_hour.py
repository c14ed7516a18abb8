"""What the documents tell people to type: every command and flag exists, and every block of commands works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from nvml_fake import FakeNvml

from cli.command_tree import examples_of, leaves
from cli.main import command_tree
from cli.reference import reference
from clover.serving.availability import missing_packages
from mig.profiles import gpu_model

ROOT = Path(__file__).parents[2]
FIRST_HOUR = ROOT / "docs" / "first-hour"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *FIRST_HOUR.glob("*.md"),
                    *(ROOT / "docs" / "operations").glob("*.md")])  # fmt: skip
BLOCK = re.compile(r"^```bash( interactive)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: `clover ...` in a line of code, or between backticks in a sentence.
COMMAND = re.compile(r"(?:^|`|\s|/)clover ([a-z][^`\n|&>#;]*)")
#: An interactive command is ended like by Ctrl-C; 130 is what a second one gives, 124 what `timeout` says.
INTERACTIVE = "{{ timeout -s INT 25 {line} || [ $? = 124 ]; }}"


@cache
def commands() -> dict[tuple[str, ...], Any]:
    return dict(leaves(command_tree()))


def flags_of(command: Any) -> set[str]:
    return {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def problem_of(line: str) -> str:
    """Return what is wrong with a command line, empty if its command and flags exist."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    path = next((p for n in (3, 2, 1) for p in [tuple(words[:n])] if p in commands()), None)
    if path is None:
        groups = {words[:-1] for words in commands()}
        named = tuple(w for w in words if not w.startswith("-"))
        # A group alone may be spoken of; so may a list such as `status|enable`.
        return "" if named[:1] in groups or "|" in line or "..." in line else f"no such command: clover {line}"
    given = {word.partition("=")[0].rstrip(",.:)") for word in words if re.match(r"--?[a-z]", word)}
    unknown = {flag for flag in given if flag not in flags_of(commands()[path])}
    return f"clover {' '.join(path)} has no {', '.join(sorted(unknown))}" if unknown else ""


def code_of(text: str) -> Iterator[str]:
    """Yield what stands in blocks of code and between backticks."""
    for fenced in re.findall(r"^```\w*[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from fenced.splitlines()
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in outside.splitlines():
        if line.startswith("    "):
            yield line
        else:
            yield from re.findall(r"`([^`]*)`", line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_flag_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    lines = [found for code in code_of(text) for found in COMMAND.findall(f" {code}")]
    wrong = [problem for line in lines if (problem := problem_of(line.strip()))]
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_links_to_is_there(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    gone = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert gone == []


def parse_problem(line: str) -> str:
    """Give a whole command line to the parser, as a shell would; return why it is refused, empty if it is taken."""
    # What is behind a redirection, a pipe or in the background is the shell's.
    words = shlex.split(re.split(r"\s(?:[|>&]|2>)", line.replace("$PORT", "6390"), maxsplit=1)[0], comments=True)
    path = next((p for n in (3, 2, 1) for p in [tuple(words[:n])] if p in commands()), None)
    if path is None:
        # The root's own options, or the list of a group's commands.
        groups = {words[0] for words in commands() if len(words) > 1}
        known = not words or words[0].startswith("-") or (words[0] in groups and not words[1:])
        return "" if known else f"no such command: {line}"
    try:
        commands()[path].make_context(" ".join(path), words[len(path) :])
    except Exception as error:  # noqa: BLE001 - the parser's own, which typer hides
        return f"clover {line}: {getattr(error, 'message', '') or error!r}"
    return ""


def typed_lines(text: str) -> Iterator[str]:
    """Yield the command lines that people may type as they stand: those of blocks, without placeholders."""
    fenced = [line for block in re.findall(r"^```(?:bash|text)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
              for line in block.splitlines()]  # fmt: skip
    indented = [line for line in re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
                if line.startswith("    ")]  # fmt: skip
    for line in (*fenced, *indented):
        found = re.match(r"\s*(?:sudo |\S+=\S+ )*(?:\.venv/bin/)?clover(?: (.*))?$", line)
        if found and not re.search(r"[\[\]]|\.\.\.|\w\|\w", found[1] or ""):
            # What stands far to the right tells of the command.
            yield re.split(r"\s{3,}", re.sub(r"<[\w ]+>", "name", found[1] or ""), maxsplit=1)[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_of_a_document_is_taken_by_the_parser(document: Path) -> None:
    lines = [line for line in typed_lines(document.read_text(encoding="utf-8")) if line]
    assert [problem for line in lines if (problem := parse_problem(line))] == []


def test_documents_have_command_lines_and_wrong_ones_are_noticed() -> None:
    lines = [line for path in DOCUMENTS for line in typed_lines(path.read_text(encoding="utf-8"))]
    assert len(lines) > 150
    assert "no such command" in parse_problem("stats")
    assert "gpu" in parse_problem("up --gpu 3")
    assert "duration" in parse_problem("up --hour soon")
    assert parse_problem("node drain")
    assert parse_problem("up --gpus 3 > out 2>&1 &") == ""


def test_the_reference_is_what_help_says() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == reference(), "make docs"


def test_every_example_of_help_names_what_exists() -> None:
    wrong = []
    for words, command in commands().items():
        examples = examples_of(command.help)
        if not examples:
            wrong.append(f"clover {' '.join(words)}: no example")
        for example in examples:
            found = re.search(r"clover (.*)", example)
            wrong += [problem_of(found[1].split(" > ")[0])] if found else [f"no command in {example}"]
    assert [each for each in wrong if each] == []


def test_every_flag_of_the_first_commands_is_explained() -> None:
    """Those that newcomers meet: what `clover up`, `status`, `dashboard` and `doctor` take is told beside help too."""
    told = " ".join(path.read_text(encoding="utf-8") for path in DOCUMENTS if path.name != "commands.md")
    for name in ("status", "dashboard", "doctor", "up"):
        flags = {max(p.opts, key=len) for p in commands()[name,].params if p.opts[0].startswith("--")}
        missing = {flag for flag in flags if flag not in told}
        assert missing == set(), name


def test_glossary_and_troubleshooting_know_every_check() -> None:
    told = (FIRST_HOUR / "troubleshooting.md").read_text(encoding="utf-8")
    source = (ROOT / "cli" / "doctor_checks.py").read_text(encoding="utf-8")
    names = set(re.findall(r'check="([a-z ]+)"', source))
    server = (ROOT / "clover" / "bus" / "server_check.py").read_text(encoding="utf-8")
    names |= {f"server {name}" for name in re.findall(r'check="([a-z_]+)"', server)}
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in told] == []


# --- run


def script_of(page: str) -> str:
    """Return the blocks of a page as one script, as somebody would type them."""
    lines = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for interactive, block in BLOCK.findall((FIRST_HOUR / page).read_text(encoding="utf-8")):
        lines += [
            INTERACTIVE.format(line=line) if interactive and line.strip() else line for line in block.splitlines()
        ]
    return "\n".join(lines)


def run_page(page: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    binaries = folder / "bin"
    binaries.mkdir()
    wrapper = binaries / "clover"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cli "$@"\n')
    wrapper.chmod(0o755)
    kept = {name: value for name, value in (environment or os.environ).items() if not name.startswith("CLOVER_")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PORT": str(port),
        "CLOVER_STATE_DIR": str(folder / "state"), "CLOVER_TRACES": str(ROOT / "traces"),
        "CLOVER_MIG_STATE": str(folder / "records"),
    }  # fmt: skip
    work = folder / "work"
    work.mkdir()
    with (folder / "output").open("w") as output:
        done = subprocess.run(
            ["bash", "-c", script_of(page)], cwd=work, env=kept | own, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, timeout=280, check=False,
        )  # fmt: skip
    told = (folder / "output").read_text()
    assert done.returncode == 0, told[-6000:]
    assert "Traceback" not in told, told[-6000:]
    return told


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
needs_models = pytest.mark.skipif(bool(missing_packages()), reason="needs the `models` extra")


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_bash
def test_the_page_of_the_simulated_fleet(tmp_path: Path) -> None:
    told = run_page("simulated.md", tmp_path)
    assert "against BASE" in told
    assert (tmp_path / "work" / "gpus.svg").read_text().startswith("<svg")
    assert (tmp_path / "work" / "clover.toml").exists()


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.timeout(300)
@needs_bash
@needs_models
def test_the_page_of_models_on_the_cpu(tmp_path: Path) -> None:
    assert "ESTIMATE" in run_page("cpu.md", tmp_path)


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.timeout(300)
@needs_bash
@needs_models
def test_the_page_of_mig(nvml_libraries: Callable[[int], Path], tmp_path: Path) -> None:
    fake = FakeNvml(nvml_libraries(0), tmp_path / "nvml-state")
    fake.add_gpu(gpu_model("a100-40gb"), mode=False)
    fake.set_energy(0, 1_000)
    assert "MIG mode is on" in run_page("mig.md", tmp_path, fake.environment)


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs_bash
def test_the_page_of_several_hosts(tmp_path: Path) -> None:
    told = run_page("hosts.md", tmp_path)
    assert "n1" in told
    assert "n2" in told
