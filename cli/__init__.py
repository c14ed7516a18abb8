"""The command line and the terminal dashboard; the only place that prints."""
