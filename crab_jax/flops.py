"""Floating-point operations of the matrix products in a traced function.

XLA's own cost analysis is not used: it counts the body of a loop once, however often it runs, and the layers of the
networks are loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matmul_flops(function: Callable, *args, while_trips: int = 0) -> int:
    """Counts two operations per multiply-add of every matrix product and convolution; nothing else is counted.

    Args:
        function: traceable; static arguments bound beforehand.
        *args: arrays or `jax.ShapeDtypeStruct`.
        while_trips: how often the body of a `while_loop` is taken to run: the program does not say (of a scan it does).
    """
    return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr, while_trips=while_trips)


def jaxpr_flops(jaxpr: Any, *, while_trips: int = 0) -> int:
    """`matmul_flops` of what was traced already, such as `jax.jit(function).trace(…).jaxpr.jaxpr`."""
    return _count(jaxpr, while_trips)


def _count(jaxpr: Any, while_trips: int) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * depth
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            per_output = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * per_output
        elif name == "while":
            total += while_trips * _count(params["body_jaxpr"].jaxpr, while_trips)
        elif name == "cond":
            total += max(_count(branch.jaxpr, while_trips) for branch in params["branches"])
        else:
            total += _times(name, params) * sum(_count(sub, while_trips) for sub in _inside(params))
    return total


def _times(name: str, params: dict[str, Any]) -> int:
    """How often an operation runs what is inside it; a kernel on all blocks, those that it skips included."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return params["mesh"].size
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """The functions that an operation calls (jit, scan, checkpoint, custom derivatives …)."""
    for value in params.values():
        if hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value
