"""Logs made for analysis: streams archived as tables in files, and what reads them."""
