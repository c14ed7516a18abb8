"""The points of a roll at which controllers die in tests, in virtual time and as processes."""

from __future__ import annotations

#: Method of the writer, which of its calls, and whether before or after it has written.
POINTS = {
    "deciding": ("take", 1, "before"),
    "decided": ("take", 1, "after"),
    "before the plan is written": ("send", 1, "before"),
    "after the plan is written": ("send", 1, "after"),
    "between steps": ("send", 2, "before"),
    "before it settles": ("settle", 1, "before"),
}
