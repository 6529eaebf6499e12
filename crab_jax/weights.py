"""How a published PyTorch tensor becomes a parameter, as data: one rule per parameter, readable both ways.

Every backbone file ends in `weight_table(config)`. The converter (`crab_jax/convert`) reads the rules from left to
right to import and from right to left to export; nothing else knows a PyTorch name.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Op:
    """A pair of inverse NumPy functions that only move axes, so that a round trip is exact to the byte."""

    name: str
    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


def _axes(name: str, *order: int) -> Op:
    inverse = tuple(int(i) for i in np.argsort(order))
    return Op(name, lambda x: x.transpose(order), lambda x: x.transpose(inverse))


KEEP = Op("keep", lambda x: x, lambda x: x)
TRANSPOSE = _axes("transpose", 1, 0)  # Linear (out, in) ↔ kernel [in out]
CONV_1D = _axes("conv_1d", 2, 1, 0)  # Conv1d (out, in/groups, k) ↔ [k in/groups out]
CONV_2D = _axes("conv_2d", 2, 3, 1, 0)  # Conv2d (out, in, kh, kw) ↔ [kh kw in out]
CONV_UP = _axes("conv_up", 0, 2, 3, 1)  # ConvTranspose2d k = stride (in, out, kh, kw) ↔ [in kh kw out], a matmul


def drop_axes(*axes: int) -> Op:
    """Removes axes of size one, as in a learned query `(1, 32, 768)`."""
    return Op(f"drop_axes{axes}", lambda x: np.squeeze(x, axes), lambda x: np.expand_dims(x, axes))


@dataclasses.dataclass(frozen=True)
class Rule:
    """`path` (inside the part) holds the tensors of `key`.

    Attributes:
        path: flat parameter path inside the part, for example `layers/attn/q/kernel`.
        key: PyTorch name with `{letter}` for each counted index, for example `layers.{i}.self_attn.q_proj.weight`.
        op: applied to each single tensor, before stacking.
        counts: how many of each letter, in the order in which they are stacked: `{"i": 32, "h": 3}` gives `[32 3 …]`.
    """

    path: str
    key: str
    op: Op = KEEP
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def keys(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """Every single PyTorch name with its index in the stacked parameter (an empty index if nothing is stacked)."""
        letters = list(self.counts)
        for index in itertools.product(*(range(self.counts[c]) for c in letters)):
            yield index, self.key.format(**dict(zip(letters, index, strict=True)))


@dataclasses.dataclass(frozen=True)
class WeightTable:
    """All that is known about the names of one part.

    Attributes:
        rules: one per parameter.
        unused: PyTorch name → PyTorch shape, for tensors that the published files hold and the network never reads.
            They are kept beside the parameters, so that an export can write the complete file again.
        ignored: regular expression (full match) → reason, for tensors that may be present and are never read (another
            tower of the same file, a buffer).
        copies: PyTorch name → name of the tensor that it is a second name of. Where it is present it must hold the same
            numbers; else the file belongs to another network.
        absent: parameter path → reason, for parameters that no published file holds.
    """

    rules: tuple[Rule, ...]
    unused: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def why_ignored(self, key: str) -> str | None:
        """The reason why `key` is ignored, or None if it is not known to be ignorable."""
        if key in self.copies:
            return f"second names of {self.copies[key]}, with the same numbers"
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, key)), None)


def linear(path: str, key: str, *, bias: bool = True, **counts: int) -> tuple[Rule, ...]:
    """The rules of one `Linear`: `path/kernel` and, if it has one, `path/bias`."""
    rules = (Rule(f"{path}/kernel", f"{key}.weight", TRANSPOSE, counts),)
    return rules + ((Rule(f"{path}/bias", f"{key}.bias", KEEP, counts),) if bias else ())


def norm(path: str, key: str, **counts: int) -> tuple[Rule, ...]:
    """The rules of one LayerNorm: `path/scale` and `path/bias`."""
    return (
        Rule(f"{path}/scale", f"{key}.weight", KEEP, counts),
        Rule(f"{path}/bias", f"{key}.bias", KEEP, counts),
    )
