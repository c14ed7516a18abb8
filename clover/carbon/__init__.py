"""Carbon intensity from live sources, their chain of fallbacks, traces, and the import of other people's files."""
