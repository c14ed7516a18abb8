"""The tree of commands: each is loaded when it is asked for, so that help is quick; examples come first in help."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

#: Where commands are found (`module:attribute`, a function or a group), and their line in `clover --help`. By what
#: people do with them: run, watch, plan, look back, set up.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("cli.up:up", "Start a whole deployment on this host, and show what it does."),
    "server": ("cli.server:server", "Start the server that a deployment's processes talk over."),
    "agent": ("cli.agent:app", "Start one agent by hand: node, carbon, controller, generator."),
    "node": ("cli.node:app", "One node by hand: configure, start, stop, drain, release."),
    "infer": ("cli.infer:infer", "Send requests of your own and print the answers with joules and grams."),
    "generate": ("cli.generate:generate", "Load a running deployment, and account for every request."),
    "status": ("cli.status:status", "Print what a deployment is doing, since when and why."),
    "dashboard": ("cli.watch:dashboard", "Watch a deployment on the terminal."),
    "events": ("cli.events:events", "Print what happened and what happens next."),
    "plan": ("cli.plan:app", "Print the best plan for a load; apply, pin, unpin, pause, resume a running one."),
    "explain": ("cli.explain:explain", "Print why a plan is as it is, and what it beat."),
    "frontier": ("cli.frontier:frontier", "Print what a load allows: carbon against accuracy."),
    "experiment": ("cli.experiment:experiment", "Compare schemes over a trace by replay."),
    "validate": ("cli.validate:validate", "Compare the simulator with the published measurements."),
    "runs": ("cli.runs:app", "Run folders: list, show, compare."),
    "logs": ("cli.logs:app", "What a deployment writes down: followed, archived, exported."),
    "query": ("cli.query:query", "Ask a run's tables in SQL."),
    "report": ("cli.report:report", "Write a page about a run or an experiment, to show around."),
    "carbon": ("cli.carbon:app", "The grid's carbon intensity by any source; import of other files."),
    "profile": ("cli.profile:app", "Measure an application, and look at performance tables."),
    "mig": ("cli.mig:app", "GPUs and their MIG partitions; works without a deployment."),
    "doctor": ("cli.doctor:doctor", "Check host, server, nodes and grid, with a remedy for what is wrong."),
    "config": ("cli.config:app", "Settings: show, check, begin a file; access rules."),
}

_EXAMPLES = re.compile(r"^Examples?:\s+(.*?)(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)


def examples_of(text: str | None) -> list[str]:
    """Return the command lines that a help text gives as examples."""
    found = _EXAMPLES.search(inspect.cleandoc(text or ""))
    return [" ".join(each.split()).rstrip(".") for each in found[1].split(";")] if found else []


def without_examples(text: str | None) -> str:
    """Return a help text without its examples."""
    return _EXAMPLES.sub("", inspect.cleandoc(text or "")).strip()


class _Commands(dict[str, Any]):
    """Commands by name; one that is in the table is loaded when it is taken out."""

    def __init__(self, given: Mapping[str, Any], table: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(dict.fromkeys(table) | dict(given))
        self._table = table

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if command is None:
            command = _loaded(name, *self._table[name])
            self[name] = command
        return command

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - that would be this method

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


def _loaded(name: str, where: str, help_line: str) -> Any:
    """Import a command and make it one of the tree."""
    module, _, attribute = where.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
        command.help = command.help or help_line
    else:
        alone = typer.Typer(rich_markup_mode=None, add_completion=False)
        alone.command(name, help=found.__doc__)(found)
        command = typer.main.get_command(alone)
    command.name = name
    examples_first(command)
    return command


class CommandTree(TyperGroup):
    """The root: its commands are those of `COMMANDS`, and those that were added to the typer application."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands(self.commands, COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, in the order of the table."""
        del ctx
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without loading them."""
        del ctx
        rows = [(name, COMMANDS[name][1]) for name in self.commands if name in COMMANDS]
        rows += [(name, self.commands[name].get_short_help_str(100)) for name in self.commands if name not in COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def examples_first(command: Any, *, below: bool = True) -> None:
    """Make the help of a command, and of all below it if asked for, begin with its examples."""
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    command.context_settings.setdefault("max_content_width", 110)
    command.short_help = command.short_help or without_examples(command.help).partition("\n\n")[0].replace("\n", " ")
    command.format_help = partial(_format_help, command)
    for child in getattr(command, "commands", {}).values() if below else ():
        examples_first(child)


def _format_help(command: Any, ctx: Any, formatter: Any) -> None:
    given = examples_of(command.help)
    if given:
        with formatter.section("Examples"):
            for line in given:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        formatter.write_paragraph()
    command.format_usage(ctx, formatter)
    kept, command.help = command.help, without_examples(command.help)
    try:
        command.format_help_text(ctx, formatter)
    finally:
        command.help = kept
    command.format_options(ctx, formatter)


def leaves(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below a group, with the words that call it; a group that does something alone is one too."""
    for name, command in root.commands.items():
        below = getattr(command, "commands", None)
        if below is None or command.invoke_without_command:
            yield (name,), command
        if below is not None:
            yield from (((name, *words), leaf) for words, leaf in leaves(command))


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint at the nearest word there is, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def usage_problem(error: Any) -> tuple[str, str]:
    """Return what is wrong with a command line in one line, and what to do about it.

    Args:
        error: What the parser raised; it has `message` and `ctx`.
    """
    path = error.ctx.command_path if error.ctx is not None else "clover"
    text = " ".join(str(error.format_message()).split()).rstrip(".")
    option = getattr(error, "option_name", None)
    if option is not None and "No such option" in text:
        known = [flag for parameter in error.ctx.command.params for flag in parameter.opts] if error.ctx else []
        return f"{path}: there is no option {option}", did_you_mean(option, known) or f"{path} --help lists the options"
    if "No such command" in text:
        word = text.split("'")[1] if "'" in text else ""
        known = list(error.ctx.command.commands) if error.ctx else []
        return f"{path}: there is no command {word}", did_you_mean(word, known) or f"{path} --help lists the commands"
    return f"{path}: {text[:1].lower()}{text[1:]}", f"{path} --help tells how it is used"
