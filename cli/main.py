"""The `clover` command: its settings file, and where errors become lines and codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer

from cli.command_tree import CommandTree, examples_first, usage_problem
from clover import __version__
from clover.errors import CloverError

app = typer.Typer(
    name="clover",
    cls=CommandTree,
    help="Carbon-aware inference serving on MIG-partitioned GPUs.\n\n"
    "Examples: clover up; clover status; clover plan --app yolov5 --rate 5",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


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
    """Read the settings file before any command runs; without a command say what to do next."""
    del version
    if context.invoked_subcommand is None:
        from cli.next_step import what_next  # noqa: PLC0415 - only where nothing else is done

        print(what_next())
        raise typer.Exit
    from cli.settings import load_settings  # noqa: PLC0415 - not for help

    context.default_map = load_settings(context.command)


def command_tree() -> Any:
    """Return the tree of all commands, each loaded when it is asked for."""
    tree = typer.main.get_command(app)
    examples_first(tree, below=False)
    return tree


def main() -> None:
    """Run the command line; every error of ours is one line, a hint if there is one, and an exit code."""
    try:
        code = command_tree().main(prog_name="clover", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the last place before the user
        if os.environ.get("CLOVER_DEBUG"):
            traceback.print_exc()
        message, hint, code = _describe(error)
        if message:
            print(message if message.startswith(("clover:", "clover ")) else f"clover: {message}", file=sys.stderr)
        if hint:
            print(f"  hint: {hint}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)
    # What a command returns is no exit code; only what ended it is.
    sys.exit(code if isinstance(code, int) else 0)


def _describe(error: BaseException) -> tuple[str, str, int]:  # noqa: PLR0911 - a kind of error each
    from mig.errors import MigError  # noqa: PLC0415 - only needed when something went wrong

    if isinstance(error, BaseExceptionGroup):
        return _describe(error.exceptions[0])
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        # The parser's own: typer hides its classes, and only what they say matters.
        if type(error).__name__.startswith("NoArgsIsHelp"):
            print(error.ctx.get_help())  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            return "", "", 2
        return *usage_problem(error), 2
    if isinstance(error, typer.Abort):
        return "stopped, nothing was done", "", 130
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
