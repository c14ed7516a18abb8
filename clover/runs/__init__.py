"""Run folders: what was started, with which settings on what, and what came of it (docs/runs.md)."""
