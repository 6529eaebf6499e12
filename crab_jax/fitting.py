"""Whether the arrays of a weights folder are the ones that its config describes; found out before they are read."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from crab_jax import checkpoint
from crab_jax.groups import CheckpointError
from crab_jax.model import CrabConfig, abstract

_NAMED = 5  # paths in a message


@functools.lru_cache(maxsize=8)
def _expected(config: CrabConfig) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in abstract(config).items()}


def check_fit(config: CrabConfig, stored: Mapping[str, Sequence[int]], *, where: object) -> None:
    """Compares stored shapes with those of the network.

    Args:
        config: all sizes of one set of weights.
        stored: path → shape.
        where: the folder, for the message.

    Raises:
        CheckpointError: arrays that are missing, misshapen, or belong to no part of the network.
    """
    wrong = []
    expected = _expected(config)
    for path in sorted({*expected, *stored}):
        want, found = (None if x is None else list(x) for x in (expected.get(path), stored.get(path)))
        if want is None:
            wrong.append(f"{path} {found}: no such parameter")
        elif found is None:
            wrong.append(f"{path} {want}: missing")
        elif want != found:
            wrong.append(f"{path}: expected {want}, found {found}")
    if wrong:
        more = f" … and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise CheckpointError(
            f"{where}: {len(wrong)} arrays are not those of the sizes in its config, convert the weights again: "
            + "; ".join(wrong[:_NAMED])
            + more
        )


def check_folder(folder: pathlib.Path, manifest: Mapping[str, Any], overlay: str | None) -> None:
    """One set of weights against its config: a wrong number in either is told before gigabytes are read.

    Args:
        folder: of the weights.
        manifest: its `crab.json`.
        overlay: name of the set; None: the base.

    Raises:
        CheckpointError: as `check_fit`.
    """
    shapes = {path: entry["shape"] for path, entry in manifest["arrays"]["base"].items()}
    if overlay is not None:
        over = {path: entry["shape"] for path, entry in manifest["arrays"][overlay].items()}
        if any(path.startswith("mask_decoder/") for path in over):  # an overlay brings it whole
            shapes = {path: shape for path, shape in shapes.items() if not path.startswith("mask_decoder/")}
        shapes |= over
    config = checkpoint.read_config(folder, manifest, overlay)
    if overlay is None and not any(path.startswith("mask_decoder/") for path in shapes):
        config = dataclasses.replace(config, mask_decoder=None)  # the overlays have their own
    check_fit(config, shapes, where=folder)
