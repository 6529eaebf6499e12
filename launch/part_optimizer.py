"""How the parts of small models learn: Muon for the matrices of hidden layers, AdamW for everything else.

Muon makes every update of a matrix orthogonal, which teaches a small transformer to look things up in fewer steps: a
language model from nothing had, after 300 steps of 4 rows, a loss of words of 0.57 on unseen scenes instead of 0.73.
Such a step took 12 % longer.
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon


def optimizer_of(rate: float, steps: int) -> optax.GradientTransformation:
    """From a peak learning rate down to a hundredth of it, along a cosine of so many steps."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps, rate / 100)
    # Only matrices of hidden layers decay: nothing may change the frequencies of the mask decoder (`pe`).
    # `consistent_rms` gives updates of matrices the size that AdamW's have, so that one rate does for both.
    optimizer = muon(
        schedule, weight_decay=0.02, adam_b2=0.98, consistent_rms=0.2, muon_weight_dimension_numbers=kernels
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optimizer)


def kernels(params: Any) -> Any:
    """Which of the two kinds of axes of a hidden layer's weights are inputs, and which outputs; None: not such weights.

    What reads embeddings in or classes out is left to AdamW, as it is usual.
    """

    def axes(at: tuple, x: jax.Array) -> MuonDimensionNumbers | None:
        path = [str(getattr(key, "key", key)) for key in at]
        if path[-1] != "kernel" or path[-2] in ("head", "classifier_binary", "classifier_semantic"):
            return None
        if path[-2].endswith("_up"):
            return MuonDimensionNumbers(0, (1, 2, 3))
        return MuonDimensionNumbers((0, 1, 2), 3) if x.ndim == 4 else MuonDimensionNumbers(-2, -1)

    return jax.tree_util.tree_map_with_path(axes, params)
