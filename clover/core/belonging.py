"""Which nodes plans are made for: those that serve the application, on the board that is planned for. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a node is, or what is expected of all of them.

    Attributes:
        application: What it serves.
        gpu_model: The board of its GPUs, such as `a100-40gb`.
        emulated: Whether they are slices of a processor's cores (backend `cpu`), whose times another table describes.
    """

    application: str
    gpu_model: str
    emulated: bool = False


def why_foreign(node: Kind, expected: Kind) -> str:
    """Return why no plan can be made for a node; empty if one can.

    Tables and partitions are of one board: on another an instance has another memory, another speed and other
    neighbours, so that neither what fits nor what is promised would hold.
    """
    if node.application != expected.application:
        return f"application {node.application!r}: expected {expected.application!r}"
    if node.gpu_model != expected.gpu_model:
        return f"board {node.gpu_model!r}: expected {expected.gpu_model!r}, which plans are made for"
    if node.emulated != expected.emulated:
        backends = ("sim or nvml", "cpu")
        told, wanted = backends[node.emulated], backends[expected.emulated]
        return f"backend {told}: expected {wanted}, whose performance table plans are made with"
    return ""
