"""What this machine can do at best: matrix products per second, and bytes read per second.

Both are measured by the same library and in the same process as everything that is compared with them, because that is
what a better program could reach here; the numbers on a data sheet are no limit that one can reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.report import Row
from launch.benchmarks.timing import Spread, race

WEIGHT_READ = "vector times weight matrix"


@dataclasses.dataclass(frozen=True)
class Probe:
    """A function whose work is known.

    Attributes:
        run: without arguments.
        work: operations or bytes of one run.
        name: what it does, for the table.
    """

    run: Callable[[], Any]
    work: float
    name: str

    def rate(self, seconds):
        """Work per second."""
        return self.work / seconds


def matmul(size: int, dtype: jnp.dtype) -> Probe:
    """Product of two square matrices [size size]; work in floating-point operations."""
    key = jax.random.key(0)
    a = jax.random.normal(key, (size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return Probe(lambda: product(a, a), 2.0 * size**3, f"matrix product {size} x {size} x {size}")


def reads(size: int, *, width: int = 4096) -> list[Probe]:
    """Functions that read one float32 array of about `size` bytes and write almost nothing; work in bytes.

    There are several, because no single form is the fastest on every machine.
    """
    rows = max(1, size // (4 * width))
    x = jnp.asarray(np.ones((rows, width), np.float32))
    right = jnp.ones((width,), jnp.float32)
    left = jnp.ones((rows,), jnp.float32)
    forms = {
        "sum of everything": jax.jit(lambda x: x.reshape(-1).sum()),
        "sum of each row": jax.jit(lambda x: x.sum(axis=1)),
        "matrix times vector": jax.jit(lambda x: x @ right),
        "vector times matrix": jax.jit(lambda x: left @ x),
    }
    return [Probe(lambda f=f: f(x), 4.0 * rows * width, name) for name, f in forms.items()]


def fastest_read(size: int, *, rounds: int) -> Probe:
    """The form of `reads` that was the fastest in most of its repetitions (smallest median)."""
    probes = reads(size)
    seconds = race({p.name: p.run for p in probes}, rounds=rounds)
    return min(probes, key=lambda p: np.median(seconds[p.name]))


def weight_read(size: int, dtype: jnp.dtype, *, width: int = 4096) -> Probe:
    """One vector times one weight matrix of about `size` bytes in `dtype`: what a decode step does most."""
    rows = max(1, size // (jnp.dtype(dtype).itemsize * width))
    kernel = jnp.ones((rows, width), dtype)
    x = jnp.ones((1, rows), dtype)
    product = jax.jit(lambda x, kernel: x @ kernel)
    return Probe(lambda: product(x, kernel), float(kernel.nbytes), WEIGHT_READ)


def rows(*, matmul_size: int, read_bytes: int, dtypes, rounds: int):
    """The machine's own limits as rows: each dtype's product beside the first dtype's, each read beside the fastest."""
    section = "Limits of this machine"
    products = {jnp.dtype(d).name: matmul(matmul_size, d) for d in dtypes}
    seconds = race({name: p.run for name, p in products.items()}, rounds=rounds)
    first = next(iter(products))
    for name, probe in products.items():
        rate = probe.rate(seconds[name]) / 1e9
        yield Row(
            section=section,
            what=probe.name,
            dtype=name,
            unit="GFLOP/s",
            measured=Spread.of(rate),
            against=f"the same in {first}",
            reference=float(np.median(products[first].rate(seconds[first]) / 1e9)),
            ratio=Spread.of(seconds[name] / seconds[first]),
        )
    size = f"{read_bytes / 2**20:g} MiB"
    forms = {("float32", p.name): p for p in reads(read_bytes)}
    for dtype in dtypes:
        probe = weight_read(read_bytes, dtype)
        forms[jnp.dtype(dtype).name, probe.name] = probe
    seconds = race({key: p.run for key, p in forms.items()}, rounds=rounds)
    plain = {key: np.median(p.rate(seconds[key])) for key, p in forms.items() if p.name != WEIGHT_READ}
    fastest = max(plain, key=plain.get)
    for key, probe in forms.items():
        rate = probe.rate(seconds[key])
        yield Row(
            section=section,
            what=f"{probe.name}, {size}",
            dtype=key[0],
            unit="GB/s",
            measured=Spread.of(rate / 1e9),
            against="the fastest way to read: " + fastest[1],
            reference=float(plain[fastest] / 1e9),
            ratio=Spread.of(forms[fastest].rate(seconds[fastest]) / rate),
        )
