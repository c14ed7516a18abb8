"""`clover config show`, `check` and `init`: what settings hold, where each comes from, and a file to begin with."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.command_tree import did_you_mean, leaves
from cli.settings import load_settings, settings_file
from clover.errors import ConfigurationError

#: Origins, from the strongest: a flag would win over all of them, but `config show` is given none.
ENVIRONMENT, FILE, DEFAULT = "environment", "file", "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one option of a command is set to, and by whom.

    Attributes:
        option: Its long flag without dashes, as a key of the settings file.
        value: As it would hold; secrets are not among options.
        origin: `environment`, `file` or `default`.
        where: Name of the environment variable, or path of the file; empty for a default.
        help: What it is.
    """

    option: str
    value: Any
    origin: str
    where: str
    help: str


def find_command(root: Any, words: list[str]) -> Any:
    """Return the command that some words call.

    Raises:
        ConfigurationError: There is none, or it is a group.
    """
    found = {" ".join(path): command for path, command in leaves(root)}
    asked = " ".join(words)
    if asked not in found:
        hint = did_you_mean(asked, list(found)) or f"known: {', '.join(sorted(found))}"
        raise ConfigurationError(f"there is no command {asked!r}", hint=hint)
    return found[asked]


def settings_of(root: Any, words: list[str]) -> list[Setting]:
    """Return the settings of a command."""
    command = find_command(root, words)
    values: Any = load_settings(root)
    for word in words:
        values = values.get(word, {})
    return [_setting(parameter, values) for parameter in command.params if _is_option(parameter)]


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-") and parameter.name != "help")


def _setting(parameter: Any, from_file: dict[str, Any]) -> Setting:
    name = max(parameter.opts, key=len).lstrip("-")
    text = parameter.help or ""
    variable = next((each for each in _variables(parameter) if os.environ.get(each)), None)
    if variable is not None:
        return Setting(option=name, value=os.environ[variable], origin=ENVIRONMENT, where=variable, help=text)
    if parameter.name in from_file:
        return Setting(option=name, value=from_file[parameter.name], origin=FILE, where=str(settings_file()), help=text)
    return Setting(option=name, value=_plain(parameter.default), origin=DEFAULT, where="", help=text)


def _variables(parameter: Any) -> list[str]:
    # CLOVER_REDIS is read by hand: the server's address must not stand in any help or error.
    given = parameter.envvar or ("CLOVER_REDIS" if "--redis" in parameter.opts else None)
    return [given] if isinstance(given, str) else list(given or ())


def _plain(value: Any) -> Any:
    if callable(value):
        return None
    return str(value) if isinstance(value, Path) else value


def problems(root: Any) -> list[str]:
    """Return what is wrong with the values of the settings file; unknown keys are refused before that."""
    defaults: Any = load_settings(root)
    found: list[str] = []
    for words, command in leaves(root):
        values = defaults
        for word in words:
            values = values.get(word, {})
        context = command.make_context(words[-1], [], resilient_parsing=True) if values else None
        for parameter in command.params:
            if parameter.name in values:
                found += _problem(parameter, context, values[parameter.name], words)
    return sorted(set(found))


def _problem(parameter: Any, context: Any, value: Any, words: tuple[str, ...]) -> list[str]:
    name = max(parameter.opts, key=len).lstrip("-")
    try:
        parameter.process_value(context, value)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        said = " ".join(str(getattr(error, "message", error)).split())
        return [f"{name} = {value!r} (for {' '.join(words)}): {said}"]
    return []


def template(root: Any) -> str:
    """Return a settings file in which every setting of `clover up` is explained and commented out."""
    lines = [
        "# Settings of clover: flags win over CLOVER_* variables, these over this file. Read from the working folder,",
        "# or from the file that CLOVER_CONFIG names. Keys at the top hold for every command that has such an option.",
        "",
    ]
    command = find_command(root, ["up"])
    for parameter in command.params:
        if not _is_option(parameter) or parameter.name in {"version", "as_json"}:
            continue
        name = max(parameter.opts, key=len).lstrip("-")
        lines += [f"# {parameter.help}", f"# {name} = {_toml(_plain(parameter.default), parameter)}", ""]
    lines += [
        "# A table holds for one command alone:",
        "# [agent.node]",
        "# gpus = 4",
        "",
    ]
    return "\n".join(lines)


def _toml(value: Any, parameter: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if value is None:
        return '""   # no default' if not getattr(parameter, "multiple", False) else "[]"
    return f'"{value}"'


def as_fields(settings: list[Setting]) -> list[dict[str, Any]]:
    """Return settings for JSON."""
    return [asdict(each) for each in settings]
