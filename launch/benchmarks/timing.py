"""Wall time of jitted functions, taken in turn, so that a machine whose speed drifts slows down all of them alike."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of several repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        return cls(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def race(contenders: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, np.ndarray]:
    """Times functions in turn: A B C, A B C, …

    One round that nobody times goes first: it compiles, and touches the memory for the first time.

    Args:
        contenders: name → function without arguments that returns arrays.
        rounds: how often each one is timed.

    Returns:
        Name → seconds, float64 [rounds]. Entries of the same round belong together: form ratios round by round.
    """
    for run in contenders.values():
        jax.block_until_ready(run())
    seconds = {name: np.zeros(rounds) for name in contenders}
    for i in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name][i] = time.perf_counter() - started
    return seconds
