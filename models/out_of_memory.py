"""What it looks like when memory runs out, in every library that may run a network."""

from __future__ import annotations

import torch

_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed, and not that something else is wrong."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
