"""Loads tensors with PyTorch names through a `WeightTable`, strictly in both directions, without the converter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crab_jax.params import Flat
from crab_jax.weights import WeightTable


def load(table: WeightTable, tensors: Mapping[str, np.ndarray], prefix: str = "") -> Flat:
    """The parameters of one part, path → float array, from tensors with their published names.

    Args:
        table: how this part names its tensors.
        tensors: PyTorch name → array; names that do not start with `prefix` are other parts and are not looked at.
        prefix: removed from the names before the table sees them, for example `vl_projector.`.

    Raises:
        KeyError: a tensor is missing, or present and unknown to the table.
        ValueError: an unused tensor has another shape than the table says, or a second name other numbers.
    """
    tensors = {name.removeprefix(prefix): np.asarray(x) for name, x in tensors.items() if name.startswith(prefix)}
    wanted = {key for rule in table.rules for _, key in rule.keys()}
    if missing := sorted(wanted - set(tensors)):
        raise KeyError(f"{len(missing)} tensors are missing under {prefix!r}, the first: {missing[:3]}")
    others = set(tensors) - wanted - set(table.unused)
    if unknown := sorted(key for key in others if table.why_ignored(key) is None):
        raise KeyError(f"{len(unknown)} tensors under {prefix!r} are not in the table, the first: {unknown[:3]}")
    for key, shape in table.unused.items():
        if key in tensors and tensors[key].shape != tuple(shape):
            raise ValueError(f"{prefix}{key}: shape {tensors[key].shape}, the table says {tuple(shape)}")
    for key, original in table.copies.items():
        if key in tensors and not np.array_equal(tensors[key], tensors[original]):
            raise ValueError(f"{prefix}{key}: differs from {original}, of which it is a second name")
    flat: Flat = {}
    for rule in table.rules:
        single = [rule.op.load(tensors[key]) for _, key in rule.keys()]
        flat[rule.path] = np.stack(single).reshape(*rule.counts.values(), *single[0].shape)
    return flat
