"""Writes a report into its folder: whole, or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import orjson

from clover.analysis.report.drawing import save
from clover.analysis.report.page import Page, html, markdown
from clover.errors import ConfigurationError

#: Files of a report's folder.
HTML, MARKDOWN, JSON, FIGURES = "report.html", "report.md", "report.json", "figures"
#: What the JSON of a report says that it is: only such a folder is replaced.
KIND = "clover report"


def write(page: Page, out: Path) -> Path:
    """Write a report into a folder, whole or not at all; return its HTML page. An older report there is replaced.

    Raises:
        ConfigurationError: The folder holds something else, cannot be written, or the disk is full; it stays as it was.
    """
    if out.exists() and not _is_report(out):
        raise ConfigurationError(
            f"{out}: it exists and is no report; nothing was written",
            hint="Choose a folder that does not exist (--out).",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _cannot(out, error) from error
    try:
        fresh.chmod(0o755)
        save(page.pictures, fresh / FIGURES)
        (fresh / HTML).write_text(html(page), encoding="utf-8")
        (fresh / MARKDOWN).write_text(markdown(page, FIGURES), encoding="utf-8")
        (fresh / JSON).write_bytes(orjson.dumps(page.data, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        _swap(fresh, out)
    except OSError as error:
        raise _cannot(out, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out / HTML


def _is_report(folder: Path) -> bool:
    try:
        return orjson.loads((folder / JSON).read_bytes()).get("kind") == KIND
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return folder.is_dir() and not any(folder.iterdir())


def _swap(fresh: Path, out: Path) -> None:
    """Put a folder in the place of another; the old one goes last."""
    if not out.exists():
        fresh.replace(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.replace(old / out.name)
    try:
        fresh.replace(out)
    except OSError:
        (old / out.name).replace(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _cannot(out: Path, error: OSError) -> ConfigurationError:
    full = error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
    return ConfigurationError(
        f"report {out}: {error.strerror or error}; nothing was written",
        hint="Make room, or choose another folder (--out)." if full else "Choose a folder that can be written (--out).",
    )
