"""Rule tables read both ways: PyTorch tensors → stacked parameters, and back. Knows no model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crab_jax.convert.report import Report
from crab_jax.convert.tensors import BFLOAT16, Tensor
from crab_jax.weights import Op, Rule, WeightTable


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter that has not been read yet; `np.asarray` reads its tensors one by one and stacks them.

    Attributes:
        shape: of the parameter, stacked.
        dtype: of the parameter.
        pieces: index in the parameter → the tensor that belongs there; the empty index if nothing is stacked.
        op: applied to each tensor.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Mapping[tuple[int, ...], Tensor]
    op: Op

    @property
    def nbytes(self) -> int:
        """Bytes of memory that reading takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        for index, tensor in self.pieces.items():
            out[index] = self.op.load(np.asarray(tensor))
        return out if dtype is None else out.astype(dtype, copy=False)


def import_part(
    table: WeightTable,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    part: str,
    report: Report,
    dtype: np.dtype | None = None,
) -> dict[str, Parameter]:
    """Matches the tensors of one part with its rules; reads nothing.

    Args:
        table: the rules.
        tensors: key (as in the rules) → tensor.
        shapes: parameter path → shape that the network has, for every parameter.
        part: name of the part, for the report and as prefix of the paths.
        report: receives `parts`, `missing`, `misshapen`, `unused` and `unused_missing`.
        dtype: floating-point parameters become this; None keeps what the files have.

    Returns:
        Path inside the part → parameter. Parameters with missing or misshapen tensors are left out.

    Raises:
        ValueError: table and network do not have the same parameters, which is a bug in the backbone.
    """
    declared = {rule.path for rule in table.rules} | set(table.absent)
    if declared != set(shapes):
        difference = ", ".join(sorted(declared ^ set(shapes)))
        raise ValueError(f"{part}: the weight table and the network disagree about {difference}")
    params: dict[str, Parameter] = {}
    for rule in table.rules:
        complaints = len(report.missing) + len(report.misshapen)
        wanted = shapes[rule.path][len(rule.counts) :]
        pieces = {}
        for index, key in rule.keys():
            tensor = tensors.get(key)
            if tensor is None:
                report.missing.append(f"{part}.{key}")
            elif _loaded_shape(rule.op, tensor) != wanted:
                report.misshapen.append(f"{part}.{key}: {_text(tensor.shape)}, {_expectation(rule.op, wanted)}")
            elif not is_float(tensor.dtype):
                report.misshapen.append(f"{part}.{key}: holds {tensor.dtype}, expected floating-point numbers")
            else:
                pieces[index] = tensor
        if complaints == len(report.missing) + len(report.misshapen):
            stored = common_dtype(*(t.dtype for t in pieces.values())) if dtype is None else np.dtype(dtype)
            params[rule.path] = Parameter(tuple(shapes[rule.path]), stored, pieces, rule.op)
    for key, shape in table.unused.items():
        if key not in tensors:
            report.unused_missing.append(f"{part}.{key}")
        elif tensors[key].shape != shape:
            report.misshapen.append(f"{part}.{key}: {_text(tensors[key].shape)}, expected {_text(shape)}")
        else:
            report.unused.append(f"{part}.{key}")
    report.parts[part] = {
        "tensors": sum(len(p.pieces) for p in params.values()),
        "parameters": sum(math.prod(p.shape) for p in params.values()),
    }
    return params


def export_rule(rule: Rule, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The reverse: the PyTorch names of one parameter, with arrays in PyTorch layout (views)."""
    for index, key in rule.keys():
        yield key, rule.op.save(value[index])


def is_float(dtype: np.dtype) -> bool:
    """True for floating-point types, bfloat16 included."""
    return np.issubdtype(dtype, np.floating) or dtype == BFLOAT16


def common_dtype(*dtypes: np.dtype) -> np.dtype:
    """The smallest floating-point type that holds all of them exactly; float16 and bfloat16 meet in float32."""
    different = set(dtypes)
    if different == {BFLOAT16, np.dtype(np.float16)}:
        return np.dtype(np.float32)
    return np.result_type(*different)


def _loaded_shape(op: Op, tensor: Tensor) -> tuple[int, ...] | None:
    """The shape after `op`, or None if `op` cannot take this tensor without loss. Nothing is read."""
    try:
        loaded = op.load(np.broadcast_to(np.zeros((), np.uint8), tensor.shape))
        return loaded.shape if op.save(loaded).shape == tensor.shape else None
    except (ValueError, IndexError):
        return None


def _expectation(op: Op, wanted: tuple[int, ...]) -> str:
    try:
        return f"expected {_text(op.save(np.broadcast_to(np.zeros((), np.uint8), wanted)).shape)}"
    except ValueError:  # more elements than a shape can have: a config claims them
        return f"expected one for a parameter {_text(wanted)}"


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
