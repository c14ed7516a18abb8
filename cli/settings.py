"""The settings file: `clover.toml` in the working folder (or `CLOVER_CONFIG`) gives defaults for options.

Keys are the long names of options without dashes in front (`gpus`, `hour`, `state-dir`). At the top level they hold
for every command that has such an option, in a table named like a command (`[up]`, `[agent.node]`) for that command
alone. What only `clover mig`, `clover node` or `clover profile power` has goes into tables such as `[mig.apply]`: their
words (`gpu`, `node`) are too near to others.
A flag wins over `CLOVER_*`, which wins over the file, which wins over the built-in default. Unknown keys are errors.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from clover.errors import ConfigurationError

#: Commands whose options are none at the top level of the file.
_OWN_WORDS = frozenset({"mig", "node", "power"})


def settings_file() -> Path | None:
    """Return the settings file, None if there is none.

    Raises:
        ConfigurationError: `CLOVER_CONFIG` names one that is not there.
    """
    named = os.environ.get("CLOVER_CONFIG")
    path = Path(named or "clover.toml")
    if path.is_file():
        return path
    if named:
        raise ConfigurationError(f"CLOVER_CONFIG = {named!r}: no such file")
    return None


def load_settings(root: Any) -> dict[str, Any]:
    """Return the defaults that the settings file gives, in the shape that the command tree reads.

    Args:
        root: The root command (of typer's vendored click: commands have `params`, groups have `commands`).
    """
    path = settings_file()
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    general = {key.replace("-", "_"): value for key, value in values.items() if not isinstance(value, dict)}
    _refuse_unknown(general, _all_options(root), path)
    return _defaults(root, general, {k: v for k, v in values.items() if isinstance(v, dict)}, path)


def _defaults(command: Any, general: dict[str, Any], tables: dict[str, Any], path: Path) -> dict[str, Any]:
    children: dict[str, Any] = getattr(command, "commands", {})
    _refuse_unknown(tables, set(children), path)
    result: dict[str, Any] = {}
    for name, child in children.items():
        table: dict[str, Any] = tables.get(name, {})
        here = {key.replace("-", "_"): value for key, value in table.items() if not isinstance(value, dict)}
        if getattr(child, "commands", None) is not None:
            inner = {key: value for key, value in table.items() if isinstance(value, dict)}
            own = _options(child)
            mine = {own[key]: value for key, value in (general | here).items() if key in own}
            result[name] = mine | _defaults(child, general | here, inner, path)
            continue
        options = _options(child)
        _refuse_unknown(here, set(options), path)
        result[name] = {options[key]: value for key, value in (general | here).items() if key in options}
    return result


def _options(command: Any) -> dict[str, str]:
    """Return the parameter name of each option of a command by its long flag, underscores for dashes."""
    # Arguments have no flag; one may share its name with an option of another command and mean something else.
    named = [parameter for parameter in command.params if parameter.opts[0].startswith("-")]
    flags = {max(parameter.opts, key=len): parameter.name for parameter in named}
    return {flag.lstrip("-").replace("-", "_"): name for flag, name in flags.items()}


def _all_options(command: Any) -> set[str]:
    found = set(_options(command))
    for name, child in getattr(command, "commands", {}).items():
        found |= set() if name in _OWN_WORDS else _all_options(child)
    return found


def _refuse_unknown(given: dict[str, Any], known: set[str], path: Path) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
            raise ConfigurationError(f"{path}: unknown key {key!r}", hint=hint)
