"""The matrix products of a traced function, each timed alone: how long a program would take if it did nothing else."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.timing import race

_PRODUCTS = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass(frozen=True)
class Product:
    """One operation with its shapes; equal ones are timed once.

    Attributes:
        name: of the primitive.
        shapes: shape and dtype of each operand.
        text: its parameters, in words: they tell products of equal shapes apart.
        apply: the operation.
    """

    name: str
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    text: str
    apply: Callable[..., Any] = dataclasses.field(compare=False)


def products(jaxpr: Any) -> collections.Counter[Product]:
    """Every matrix product and convolution, and how often it runs. Bodies of scans count as often as they are run."""
    found: collections.Counter[Product] = collections.Counter()
    for eqn, times in _walk(jaxpr, 1):
        if eqn.primitive.name in _PRODUCTS:
            shapes = tuple((tuple(v.aval.shape), str(v.aval.dtype)) for v in eqn.invars)
            apply = lambda *xs, eqn=eqn: eqn.primitive.bind(*xs, **eqn.params)  # noqa: E731
            found[Product(eqn.primitive.name, shapes, str(eqn.params), apply)] += times
    return found


def _walk(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    for eqn in jaxpr.eqns:
        yield eqn, times
        inner = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        for value in eqn.params.values():
            for one in value if isinstance(value, tuple | list) else (value,):
                if hasattr(one, "jaxpr"):
                    yield from _walk(one.jaxpr, inner)
                elif hasattr(one, "eqns"):
                    yield from _walk(one, inner)


def seconds(jaxpr: Any, *, rounds: int = 3) -> float:
    """Time of all products of a function, one after the other, each at its best of `rounds`."""
    total = 0.0
    for product, count in products(jaxpr).items():
        rng = np.random.default_rng(0)
        operands = [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape, dtype in product.shapes]
        compiled = jax.jit(product.apply)
        total += count * float(race({"": lambda f=compiled, x=operands: f(*x)}, rounds=rounds)[""].min())
    return total
