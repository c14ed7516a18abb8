"""What the families that look at pictures share for answering several requests at once; workers only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Infer = Callable[[torch.Tensor], torch.Tensor]


def infer_split(infer: Infer, prepared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Infer once on the pictures of several requests, and return to each request its own rows."""
    # A network that keeps channels last would be slow on what torch.cat makes of a copy in another layout.
    layout = torch.channels_last if prepared[0].is_contiguous(memory_format=torch.channels_last) else None
    together = torch.cat(list(prepared))
    pictures = together if layout is None else together.contiguous(memory_format=layout)
    return list(infer(pictures).split([len(one) for one in prepared]))
