"""The `clover` command: its tree of commands, its settings file, and where errors become lines and codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from cli import (
    agent,
    carbon,
    config,
    doctor,
    events,
    experiment,
    explain,
    frontier,
    infer,
    mig,
    node,
    plan,
    profile,
    runs,
    server,
    status,
    up,
    validate,
    watch,
)
from cli.settings import load_settings
from clover import __version__
from clover.errors import CloverError

app = typer.Typer(
    name="clover",
    help="Carbon-aware inference serving on MIG-partitioned GPUs. Start with: clover up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up", help=up.up.__doc__)(up.up)
app.command("server", help=server.server.__doc__)(server.server)
app.add_typer(agent.app, name="agent", help="Start one agent by hand: node, carbon, controller, generator.")
app.add_typer(node.app, name="node", help="One node by hand: configure, start, stop, drain, release.")
app.command("status", help=status.status.__doc__)(status.status)
app.command("events", help=events.events.__doc__)(events.events)
app.command("dashboard", help=watch.dashboard.__doc__)(watch.dashboard)
app.command("doctor", help=doctor.doctor.__doc__)(doctor.doctor)
app.add_typer(config.app, name="config", help="Settings that are made, not chosen: access rules.")
app.command("infer", help=infer.infer.__doc__)(infer.infer)
app.add_typer(profile.app, name="profile", help="Measure an application, and look at performance tables.")
app.command("validate", help=validate.validate.__doc__)(validate.validate)
app.add_typer(carbon.app, name="carbon", help="The grid's carbon intensity by any source; import of other files.")
app.add_typer(plan.app, name="plan", help=plan.plan.__doc__)
app.command("explain", help=explain.explain.__doc__)(explain.explain)
app.command("frontier", help=frontier.frontier.__doc__)(frontier.frontier)
app.command("experiment", help=experiment.experiment.__doc__)(experiment.experiment)
app.add_typer(runs.app, name="runs", help="Run folders: list, show, compare.")
app.add_typer(mig.app, name="mig", help="GPUs and their MIG partitions; works without a deployment.")


def _version(*, value: bool) -> None:
    if value:
        print(f"clover {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Read the settings file before any command runs."""
    del version
    context.default_map = load_settings(typer.main.get_command(app))


def main() -> None:
    """Run the command line; every error of ours is one line, a hint if there is one, and an exit code."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last place before the user
        if os.environ.get("CLOVER_DEBUG"):
            traceback.print_exc()
        message, hint, code = _describe(error)
        print(f"clover: {message}", file=sys.stderr)
        if hint:
            print(f"  hint: {hint}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)


def _describe(error: BaseException) -> tuple[str, str, int]:
    from mig.errors import MigError  # noqa: PLC0415 - only needed when something went wrong

    if isinstance(error, BaseExceptionGroup):
        return _describe(error.exceptions[0])
    if isinstance(error, CloverError):
        return str(error), error.hint, error.exit_code
    if isinstance(error, MigError):
        return str(error), error.hint, _mig_code(error)
    if isinstance(error, BrokenPipeError):
        # The reader of our output went away (`| head`): nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "output closed", "", 0
    return f"bug: {type(error).__name__}: {error}", "set CLOVER_DEBUG=1 for the traceback and report it", 1


def _mig_code(error: BaseException) -> int:
    """Tell what the user wrote (3) from what the GPUs are (6)."""
    from mig.errors import InsufficientResourcesError, PartitionRejectedError, UnknownGpuModelError  # noqa: PLC0415
    from mig.goal import InvalidGoalError  # noqa: PLC0415

    if isinstance(error, InsufficientResourcesError):
        return 6
    return 3 if isinstance(error, (UnknownGpuModelError, PartitionRejectedError, InvalidGoalError)) else 6
