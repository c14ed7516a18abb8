"""Clover: carbon-aware inference serving on MIG-partitioned GPUs."""

__version__ = "0.1.0"
