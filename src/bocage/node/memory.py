"""Gives memory back to the system after work that needed much of it for a moment."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Free what only cycles hold, and return free pages (malloc_trim(3), where the C library has it)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
