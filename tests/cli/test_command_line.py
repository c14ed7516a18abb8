"""The command line as a whole: quick help, complete help, errors in one line, settings and where they come from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.command_tree import COMMANDS, examples_of, leaves, without_examples
from cli.main import command_tree

ROOT = Path(__file__).parents[2]
#: What help must not wait for.
HEAVY = (
    "numpy",
    "torch",
    "redis",
    "httpx",
    "highspy",
    "polars",
    "duckdb",
    "matplotlib",
    "msgspec",
    "asyncio",
    "pynvml",
)
LEAVES: dict[str, Any] = {" ".join(words): command for words, command in leaves(command_tree())}
#: Processes that run until they are stopped; what they have to say goes to the bus and the log.
NO_JSON = {"agent node", "agent carbon", "agent controller", "mig helper"}


def clover(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOVER_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, timeout=60, check=False,
        cwd=folder or ROOT, env=kept | {"PYTHONPATH": str(ROOT)} | environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def imported(*arguments: str) -> set[str]:
    """Return the top-level modules that a command line has loaded when it ends."""
    script = (
        "import sys\nfrom cli.main import main\n"
        f"sys.argv = ['clover', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_help_of_everything_loads_nothing_heavy() -> None:
    assert imported("--help") & {*HEAVY, "rich"} == set()
    assert imported("--version") & set(HEAVY) == set()


@pytest.mark.parametrize("name", ["up", "status", "dashboard", "doctor", "plan"])
def test_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    assert imported(name, "--help") & (set(HEAVY) - {"asyncio", "msgspec"}) == set()


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_help_is_complete(name: str) -> None:
    command = LEAVES[name]
    assert without_examples(command.help), "says what it does"
    assert all(each.startswith(("clover ", "CLOVER_")) for each in examples_of(command.help))
    assert examples_of(command.help), "has an example"
    for parameter in command.params:
        assert (getattr(parameter, "help", None) or "").strip(), f"{name}: {parameter.opts[0]} is explained"


@pytest.mark.parametrize("name", sorted(set(LEAVES) - NO_JSON))
def test_every_command_can_answer_in_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in LEAVES[name].params)


def test_examples_come_first() -> None:
    told = clover("up", "--help").stdout
    assert told.startswith("Examples:\n  clover up\n")
    assert told.index("Examples") < told.index("Usage") < told.index("Options")
    assert told.count("Examples") == 1


def test_the_root_lists_every_command_with_its_line() -> None:
    told = " ".join(clover("--help").stdout.split())
    for name, (_, line) in COMMANDS.items():
        assert f"{name} {line}" in told


def test_alone_it_says_what_to_do_next(tmp_path: Path) -> None:
    told = clover(CLOVER_STATE_DIR=str(tmp_path))
    assert told.returncode == 0
    assert "clover up" in told.stdout
    assert "Nothing of it runs here yet" in told.stdout


def test_alone_it_says_what_runs(tmp_path: Path) -> None:
    from clover.agents.deployment import claim_state  # noqa: PLC0415

    claim_state(tmp_path, "mine", url="redis://127.0.0.1:1", owner="test")
    told = clover(CLOVER_STATE_DIR=str(tmp_path)).stdout
    assert "Running here: mine" in told
    assert "clover dashboard --deployment mine" in told


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("stats",), "clover: there is no command stats", "did you mean status?"),
        (("mig", "aply"), "clover mig: there is no command aply", "did you mean apply?"),
        (("up", "--gpu", "3"), "clover up: there is no option --gpu", "did you mean --gpus?"),
        (("up", "--zzz"), "clover up: there is no option --zzz", "clover up --help"),
        (("up", "--rate", "abc"), "clover up: invalid value for '--rate'", "clover up --help"),
        (("up", "--hour", "abc"), "clover up: invalid value for '--hour'", "clover up --help"),
        (("node", "drain"), "clover node drain: missing argument", "clover node drain --help"),
        (("dashboard", "--page", "x"), "expected one of overview, gpus", "--help"),
        (("dashboard", "--size", "80"), "is not a size such as 80x24", "--help"),
        (("dashboard", "--speed", "0"), "is not a speed such as 1", "--help"),
    ],
)
def test_usage_errors_are_one_line_and_a_hint(arguments: tuple[str, ...], said: str, hint: str) -> None:
    done = clover(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert said in first
    assert second.startswith("  hint: ")
    assert hint in second


def test_a_group_alone_shows_its_commands() -> None:
    done = clover("mig")
    assert done.returncode == 2
    assert "partitions" in done.stdout


def test_completion_knows_commands_options_and_values() -> None:
    def completed(line: str) -> set[str]:
        done = clover(_CLOVER_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1))
        return set(done.stdout.split())

    assert {"status", "server"} <= completed("clover s")
    assert "--gpus" in completed("clover up --gp")
    assert "yolov5" in completed("clover up --app yo")
    assert "base_rightsized" in completed("clover plan --scheme base_")


def test_settings_and_their_origins(tmp_path: Path) -> None:
    (tmp_path / "clover.toml").write_text("gpus = 4\n[up]\nrate = 2.5\n")
    done = clover("config", "show", "--json", folder=tmp_path, CLOVER_SEED="7")
    told = json.loads(done.stdout)
    found = {each["option"]: (each["value"], each["origin"], each["where"]) for each in told["settings"]}
    assert found["gpus"] == (4, "file", "clover.toml")
    assert found["rate"] == (2.5, "file", "clover.toml")
    assert found["seed"] == ("7", "environment", "CLOVER_SEED")
    assert found["app"] == ("albert", "default", "")
    lines = clover("config", "show", "agent", "node", "--changed", "--origin", folder=tmp_path).stdout
    assert lines.split() == ["gpus", "4", "file", "clover.toml"]


def test_a_settings_file_is_begun_checked_and_refused(tmp_path: Path) -> None:
    assert clover("config", "init", folder=tmp_path).returncode == 0
    path = tmp_path / "clover.toml"
    written = path.read_text()
    assert clover("config", "check", folder=tmp_path).returncode == 0
    refused = clover("config", "init", folder=tmp_path)
    assert (refused.returncode, "--force" in refused.stderr) == (3, True)
    # What is commented out is right when the # is taken away, as far as it has a value.
    keys = [line.removeprefix("# ") for line in written.splitlines() if re.match(r"# [a-z-]+ = [^\"\[]", line)]
    assert len(keys) > 3
    path.write_text("\n".join(keys))
    checked = clover("config", "check", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    path.write_text('rate = "fast"\n')
    checked = clover("config", "check", "--json", folder=tmp_path)
    assert checked.returncode == 3
    assert "rate = 'fast' (for up)" in " ".join(json.loads(checked.stdout)["problems"])
    path.write_text("gpuss = 4\n")
    refused = clover("status", folder=tmp_path)
    assert (refused.returncode, "did you mean 'gpus'?" in refused.stderr) == (3, True)
