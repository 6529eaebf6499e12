"""Parameters as a flat dict, path → array. Nested trees exist only at the `apply` boundary."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from crab_jax.config import ConfigError

Flat = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested dicts → `{"a/b": leaf}`, in the order of the tree."""
    flat: Flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a/b": leaf}` → nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def subtree(flat: Mapping[str, Any], part: str) -> Flat:
    """The parameters under `part/`, without that prefix."""
    return {path.removeprefix(f"{part}/"): leaf for path, leaf in flat.items() if path.startswith(f"{part}/")}


def split(flat: Mapping[str, Any], patterns: Iterable[str]) -> tuple[Flat, Flat]:
    """Two dicts: paths that fully match one of `patterns`, and the rest.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in flat):
            parts = ", ".join(dict.fromkeys(path.split("/", 1)[0] for path in flat))
            raise ConfigError(
                f"the pattern {pattern!r} matches none of the {len(flat)} parameter paths, which begin with one of "
                f"{parts}; see stage.train and stage.fresh"
            )
    chosen = {path for path in flat if any(re.fullmatch(pattern, path) for pattern in patterns)}
    return {p: x for p, x in flat.items() if p in chosen}, {p: x for p, x in flat.items() if p not in chosen}


def count(flat: Mapping[str, Any]) -> int:
    """Number of scalars; works on arrays and on `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in flat.values())
