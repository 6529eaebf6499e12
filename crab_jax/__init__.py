"""Crab in JAX: one model that hears and sees at once, and says what, when, where, and which pixels.

`load` and what it returns are the public interface; everything is imported on first use, so that data workers that
only need a part of the package never import jax.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "crab_jax.api",
    "Assistant": "crab_jax.api",
    "Failure": "crab_jax.api",
    "Result": "crab_jax.api",
    "SampleError": "crab_jax.api",
    "WeightsError": "crab_jax.api",
    "Sampling": "crab_jax.evaluate.generate",
    "TASKS": "crab_jax.tasks",
    "Unparsed": "crab_jax.tasks",
    "Wording": "crab_jax.tasks",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
