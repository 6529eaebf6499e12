"""Shape checks in letters, at trace time (they cost nothing at run time)."""

from __future__ import annotations

from typing import Any


def expect(x: Any, spec: str, **sizes: int) -> dict[str, int]:
    """Checks `x.shape` against space-separated letters and learns the letters not given.

    Args:
        x: anything with `.shape`.
        spec: for example `"B L D"` or `"B 6 D"`; digits are literal sizes.
        **sizes: letters whose size is already known.

    Returns:
        All letters with their sizes.

    Raises:
        ValueError: the rank or one size differs; the message names the letter.
    """
    names = spec.split()
    known = sizes | {n: int(n) for n in names if n.isdigit()}
    if len(names) != len(x.shape):
        raise ValueError(f"expected [{spec}], got shape {tuple(x.shape)}")
    for name, size in zip(names, x.shape, strict=True):
        if known.setdefault(name, size) != size:
            raise ValueError(f"expected [{spec}] with {name}={known[name]}, got shape {tuple(x.shape)}")
    return known
