"""`clover runs`: the run folders that `up`, `generate` and `experiment` write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.output import print_json, tell
from cli.recording import RunsDir, alive

if TYPE_CHECKING:
    from clover.runs.compare import Difference
    from clover.runs.folder import Found

app = typer.Typer(no_args_is_help=True)

Run = Annotated[str, typer.Argument(help="Folder, name, beginning of a name, or last.")]

#: Shown by `ls`, as far as a summary has them.
_HEADLINES = ("p95_ms", "late_pct", "accuracy_pct", "energy_j_per_request", "saved_pct")


@app.command()
def ls(
    *,
    command: Annotated[str | None, typer.Option("--command", help="Only those of up, generate or experiment.")] = None,
    runs_dir: RunsDir = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """List the runs, oldest first, with how they ended and their headline figures.

    Example: clover runs ls --command up
    """
    from clover.runs.folder import list_runs  # noqa: PLC0415 - keeps --help fast

    folder = _folder(runs_dir, state_dir)
    found, troubles = list_runs(folder, alive)
    kept = [run for run in found if command in {None, run.record.command}]
    if as_json:
        print_json({"runs_dir": str(folder), "runs": [_line(run) for run in kept], "unreadable": troubles})
        return
    if kept:
        _print_table([_line(run) for run in kept])
    else:
        tell(f"no runs in {folder}")
    for trouble in troubles:
        tell(f"unreadable: {trouble}")


@app.command()
def show(
    run: Run = "last",
    *,
    runs_dir: RunsDir = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show one run: its settings and who gave them, what it ran on, what came of it.

    Example: clover runs show last
    """
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from clover.runs.folder import find_run  # noqa: PLC0415

    found = find_run(_folder(runs_dir, state_dir), run, alive)
    if as_json:
        record = msgspec.to_builtins(found.record) | {"state": found.state}
        print_json({"path": str(found.path), "files": _files(found), "run": record, "summary": found.summary()})
        return
    _print_run(found)


@app.command()
def diff(
    a: Run,
    b: Run,
    *,
    runs_dir: RunsDir = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show what differs between two runs: settings, inputs, surroundings, figures with their change in %.

    Example: clover runs diff 20261124-1 last
    """
    from clover.runs.compare import compare  # noqa: PLC0415 - keeps --help fast
    from clover.runs.folder import find_run  # noqa: PLC0415

    folder = _folder(runs_dir, state_dir)
    first, second = find_run(folder, a, alive), find_run(folder, b, alive)
    found = compare(first.record, second.record, first.summary(), second.summary())
    if as_json:
        print_json({"a": first.record.run, "b": second.record.run, "differences": [_difference(one) for one in found]})
        return
    _print_differences(first, second, found)


def _folder(runs_dir: Path | None, state_dir: Path | None) -> Path:
    from clover.agents.deployment import default_state_folder  # noqa: PLC0415 - keeps --help fast
    from clover.runs.folder import default_runs_folder  # noqa: PLC0415

    return runs_dir or default_runs_folder(state_dir or default_state_folder())


def _line(found: Found) -> dict[str, Any]:
    record, summary = found.record, found.summary() or {}
    ended = record.ended_ms
    return {
        "run": record.run,
        "command": record.command,
        "state": found.state,
        "started_at": record.started_at,
        "seconds": None if ended is None else (ended - record.started_ms) / 1e3,
        "hardware": record.hardware.label,
        "arrivals": summary.get("arrivals"),
        **{name: summary.get(name) for name in _HEADLINES},
    }


def _files(found: Found) -> list[str]:
    return sorted(str(path.relative_to(found.path)) for path in found.path.rglob("*") if path.is_file())


def _print_table(lines: list[dict[str, Any]]) -> None:
    """Print columns as wide as what is in them: nothing is cut, whoever reads it."""
    rows = [list(lines[0]), *([_text(value) for value in line.values()] for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_run(found: Found) -> None:
    from clover.runs.compare import flattened  # noqa: PLC0415 - keeps --help fast

    record = found.record
    about = record.surroundings
    git = f", commit {about.git.commit[:12]}{' with changes' if about.git.dirty else ''}" if about.git else ""
    gpus = ", ".join(f"{node}: {count}" for node, count in record.hardware.gpus.items())
    print(f"{found.path}")
    print(f"  {record.command}, {found.state}{f': {record.reason}' if record.reason else ''}")
    print(f"  {record.started_at} to {record.ended_at or '-'}, seed {record.seed}")
    print(f"  {record.hardware.label}: {record.hardware.gpu_model} ({record.hardware.backend}), GPUs {gpus or '-'}")
    print(f"  clover {about.clover}{git}; Python {about.python}, {about.platform}, {about.processors} processors")
    for each in record.inputs:
        print(f"  {each.what}: sha256 {each.sha256[:16]}..., {each.size_bytes} bytes, {each.path}")
    print("settings that were given (the others have their defaults):")
    for name, setting in record.settings.items():
        if setting.origin != "default":
            print(f"  {name} = {_text(setting.value)}  ({setting.origin})")
    print("summary:")
    for name, value in flattened(found.summary() or {}).items():
        print(f"  {name} = {_text(value)}")
    print(f"files: {', '.join(_files(found))}")


def _difference(one: Difference) -> dict[str, Any]:
    return {"group": one.group, "name": one.name, "a": one.a, "b": one.b, "change_pct": one.change_pct}


def _print_differences(a: Found, b: Found, found: list[Difference]) -> None:
    print(f"a = {a.record.run}\nb = {b.record.run}")
    group = ""
    for one in found:
        if one.group != group:
            group = one.group
            print(f"{group}:")
        change = "" if one.change_pct is None else f"  ({one.change_pct:+.1f} %)"
        print(f"  {one.name}: {_text(one.a)} -> {_text(one.b)}{change}")
    if not found:
        print("nothing differs")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
