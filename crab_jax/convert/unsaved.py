"""Sources for the tensors that no published file holds: 17 rows of two matrices and two matrices of frequencies.

The reference draws both at random in every process, in training and in inference at different places of the random
stream. `T3` and `I3` are those draws for seed 42 with three LoRA heads, in the order of the training and of the
inference script; they ship with this package and fit the published sizes only.

Source: specification 2.4, 8.9, D, Q-1, Q-2.
"""

from __future__ import annotations

import functools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from crab_jax.backbones.mask_decoder import PE_TENSORS
from crab_jax.convert.sources import SourceError, Tensor, in_memory, open_source
from crab_jax.convert.tensors import READ_ERRORS
from crab_jax.model import ADDED_TOKENS

Rows = Literal["T3", "I3", "avs", "zeros", "random"]
ROWS: tuple[Rows, ...] = ("T3", "I3", "avs", "zeros", "random")
CANDIDATES = pathlib.Path(__file__).with_name("seed42_candidates.npz")
SEED = 42

_ABOUT = {
    "T3": "T3, the draw of seed 42 in the order of the training script",
    "I3": "I3, the draw of seed 42 in the order of the inference script",
}


@functools.cache
def candidates() -> dict[str, np.ndarray]:
    """The shipped arrays, `{T3,I3}.…`."""
    with np.load(CANDIDATES, allow_pickle=False) as file:
        return dict(file)


def default_rows(width: int, base_vocabulary: int, *, has_avs: bool) -> Rows:
    """T3 where it fits, else the rows of an AVS file, else random ones."""
    known = next(x for name, x in candidates().items() if name.startswith("T3.embed_tokens"))
    if (len(known), width, base_vocabulary) == (ADDED_TOKENS, known.shape[1], 32000):
        return "T3"
    return "avs" if has_avs else "random"


def new_rows(
    choice: Rows, matrix: Literal["embed_tokens", "lm_head"], width: int, *, avs: Tensor | None
) -> tuple[Tensor, str]:
    """The rows of the added tokens for one of the two matrices.

    Args:
        choice: see `ROWS`.
        matrix: which one.
        width: of the model.
        avs: the same matrix in an AVS file.

    Returns:
        The rows [17 width], and a sentence about where they come from.

    Raises:
        SourceError: the choice does not fit this model.
    """
    if choice == "avs":
        if avs is None:
            raise SourceError("--new-rows avs: no AVS file is given that could hold the rows of the added tokens")
        if len(avs.shape) != 2 or avs.shape[1] != width or avs.shape[0] < ADDED_TOKENS:
            raise SourceError(
                f"--new-rows avs: {matrix} of the AVS file has the shape {avs.shape}, the model the width {width}"
            )
        rows = Tensor((ADDED_TOKENS, width), avs.dtype, lambda: np.asarray(avs)[-ADDED_TOKENS:].copy(), avs.file)
        return rows, f"the last {ADDED_TOKENS} rows of {avs.file.name if avs.file else 'the AVS file'}"
    if choice in _ABOUT:
        (rows,) = (x for name, x in candidates().items() if name.startswith(f"{choice}.{matrix}."))
        if rows.shape != (ADDED_TOKENS, width):
            raise SourceError(
                f"--new-rows {choice}: these rows have the width {rows.shape[1]}, the model has {width}; "
                "choose avs, zeros or random"
            )
        return in_memory(rows), _ABOUT[choice]
    if choice == "zeros":
        return in_memory(np.zeros((ADDED_TOKENS, width), np.float32)), "zeros"
    # Both matrices come from one stream, so that they differ.
    embed, head = 0.02 * np.random.default_rng(SEED).standard_normal((2, ADDED_TOKENS, width))
    rows = (embed if matrix == "embed_tokens" else head).astype(np.float32)
    return in_memory(rows), f"random, N(0, 0.02), NumPy seed {SEED}"


def frequencies(choice: str | os.PathLike | None, width: int) -> tuple[dict[str, Tensor], str]:
    """The matrices of the positional encoding.

    Args:
        choice: "T3", "I3", "random", or a .npz or .safetensors file with two arrays whose names end like
            `PE_TENSORS`. None: T3 where it fits, else random.
        width: `prompt_dim`; the matrices are [2 width/2].

    Returns:
        Parameter path inside the mask decoder → matrix, and a sentence about where they come from.

    Raises:
        SourceError: a file that cannot be read, lacks an array or holds one of another shape.
    """
    shape = (2, width // 2)
    if choice is None:
        fits = _candidate("T3", "pe/level0").shape == shape
        choice = "T3" if fits else "random"
    if choice in _ABOUT:
        found = {path: in_memory(_candidate(str(choice), path)) for path in PE_TENSORS}
        about = _ABOUT[str(choice)]
    elif choice == "random":
        values = np.random.default_rng(SEED).standard_normal((len(PE_TENSORS), *shape)).astype(np.float32)
        found = {path: in_memory(x) for path, x in zip(PE_TENSORS, values, strict=True)}
        about = f"random, N(0, 1), NumPy seed {SEED}; masks are meaningless unless the decoder is trained with them"
    else:
        found = {path: _ending(_arrays(choice), name, choice) for path, name in PE_TENSORS.items()}
        about = f"the file {pathlib.Path(choice).name}"
    for path, tensor in found.items():
        if tensor.shape != shape:
            raise SourceError(f"--pe {choice}: {PE_TENSORS[path]} has the shape {tensor.shape}, expected {shape}")
    return found, about


def _candidate(choice: str, path: str) -> np.ndarray:
    return candidates()[f"{choice}.seg_module.{PE_TENSORS[path]}"]


def _arrays(file: str | os.PathLike) -> Mapping[str, Tensor]:
    path = pathlib.Path(file)
    if path.suffix != ".npz":
        return open_source(path).tensors
    try:
        with zipfile.ZipFile(path):  # `np.load` also takes a single array, which holds no names
            pass
        with np.load(path, allow_pickle=False) as arrays:
            wanted = [n for n in arrays.files if n.endswith(tuple(PE_TENSORS.values()))]
            return {name: in_memory(arrays[name]) for name in wanted}
    except (*READ_ERRORS, zlib.error, MemoryError) as error:
        raise SourceError(f"--pe {path}: cannot be read as a .npz file ({type(error).__name__}: {error})") from error


def _ending(arrays: Mapping[str, Tensor], end: str, file: str | os.PathLike) -> Tensor:
    names = [name for name in arrays if name.endswith(end)]
    if len(names) != 1:
        raise SourceError(f"--pe {file}: expected one array whose name ends in {end!r}, found {len(names)}")
    return arrays[names[0]]
