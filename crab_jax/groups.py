"""Arrays on disk: one Orbax checkpoint per group of parameters, or for small models one safetensors file.

Orbax holds everything it is given until the last byte is written, copies every NumPy array first (`_Borrowed` avoids
that), and TensorStore compresses all chunks before it writes the first file. Groups, small chunks and small files bound
the peak to the largest group and about 0.3 GB, whatever the size of the model; untamed, it is three times the largest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_dtypes  # noqa: F401  registers the name "bfloat16" with NumPy
import numpy as np
import orbax.checkpoint as ocp
import safetensors
from safetensors.numpy import load_file, save_file

from crab_jax.params import Flat, flatten, nest

GROUP_BYTES = 256 << 20
CHUNK_BYTES = 16 << 20  # of one TensorStore chunk: a shard reads the chunks it overlaps, not the whole parameter
FILE_BYTES = 64 << 20  # of one data file
# Paths that an overlay replaces lie in groups of their own, so that loading an overlay does not read them in vain.
_OVERLAID = ("llama/embed/", "llama/head/")


class CheckpointError(ValueError):
    """A weights folder that cannot be written or read; the message says what was expected and what to do."""


class _Borrowed(np.ndarray):
    """An array that Orbax does not copy before it writes; saving is synchronous here, so nothing changes meanwhile."""

    def __deepcopy__(self, memo: Any) -> _Borrowed:
        return self


def nbytes(x: Any) -> int:
    """Bytes of anything with shape and dtype."""
    return math.prod(x.shape) * np.dtype(x.dtype).itemsize


def describe(x: Any) -> dict[str, Any]:
    """Shape and dtype as JSON types."""
    return {"shape": [int(n) for n in x.shape], "dtype": np.dtype(x.dtype).name}


def groups(section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Paths that are saved together: of one part, and not more than `GROUP_BYTES` unless one alone is larger."""
    parts: dict[str, list[str]] = {}
    for path in values:
        part = "vocabulary" if path.startswith(_OVERLAID) else path.split("/", 1)[0]
        parts.setdefault(part, []).append(path)
    for part, paths in parts.items():
        number, group, size = 0, [], 0
        for path in paths:
            more = nbytes(values[path])
            if group and size + more > GROUP_BYTES:
                yield f"{section}-{part}-{number:03d}", group
                number, group, size = number + 1, [], 0
            group, size = [*group, path], size + more
        yield f"{section}-{part}-{number:03d}", group


def save_group(path: pathlib.Path, values: Mapping[str, Any], progress: Callable[[int], Any]) -> None:
    """Reads and writes the arrays of one group; `progress` gets the bytes of each."""
    flat = {}
    for name, value in values.items():
        x = np.asarray(value)
        if x.shape != tuple(value.shape) or x.dtype != value.dtype:
            raise CheckpointError(f"{name}: announced as {value.dtype} {value.shape}, read as {x.dtype} {x.shape}")
        flat[name] = np.ascontiguousarray(x).reshape(x.shape).view(_Borrowed)
        progress(x.nbytes)
    tree = nest(flat)
    args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), tree)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, quiet():
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree, save_args=args, ocdbt_target_data_file_size=FILE_BYTES))


def single_file(path: pathlib.Path) -> pathlib.Path:
    """Where a group lies that is one safetensors file instead of an Orbax checkpoint."""
    return path.with_name(f"{path.name}.safetensors")


def save_single(path: pathlib.Path, values: Mapping[str, Any], progress: Callable[[int], Any]) -> None:
    """Writes a group as one file, for models that are small enough to lie in a repository."""
    flat = {name: np.ascontiguousarray(x) for name, x in values.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(flat, single_file(path))
    progress(sum(x.nbytes for x in flat.values()))


def load_group(
    path: pathlib.Path, stored: Mapping[str, Mapping[str, Any]], *, dtype: Any = None, shardings: Any = None
) -> Flat:
    """Reads one group.

    Args:
        path: the Orbax checkpoint; where there is a `single_file` of this name, that is read.
        stored: path → shape and dtype of everything that must be in it.
        dtype: to cast to while reading; None: as stored.
        shardings: see `checkpoint.load`.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        if single_file(path).is_file():
            flat = _load_single(path, stored, dtype, shardings)
        else:
            flat = _load_orbax(path, stored, dtype, shardings)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, safetensors.SafetensorError) as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(f"{path}: cannot be read ({text}); convert the weights again") from error
    for name, entry in stored.items():
        expected = np.dtype(entry["dtype"] if dtype is None else dtype)
        if tuple(flat[name].shape) != tuple(entry["shape"]) or flat[name].dtype != expected:
            raise CheckpointError(
                f"{path}: {name}: read {flat[name].dtype} {tuple(flat[name].shape)}, expected {expected} "
                f"{tuple(entry['shape'])}; JAX has no 64-bit types unless they are enabled"
            )
    return flat


def _load_orbax(path: pathlib.Path, stored: Mapping[str, Mapping[str, Any]], dtype: Any, shardings: Any) -> Flat:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, quiet():
        # Orbax casts silently, and pads or cuts if a shape differs: what is stored is compared first.
        _check_stored(path, flatten(_tree(checkpointer.metadata(path))), stored)
        args = nest({p: _restore_args(p, entry, dtype, shardings) for p, entry in stored.items()})
        item = nest(dict.fromkeys(stored, 0))
        return flatten(checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=item, restore_args=args)))


def _load_single(path: pathlib.Path, stored: Mapping[str, Mapping[str, Any]], dtype: Any, shardings: Any) -> Flat:
    flat = load_file(single_file(path))
    _check_stored(single_file(path), flat, stored)
    for name, entry in stored.items():
        x = flat[name] if dtype is None else flat[name].astype(dtype)
        place = _restore_args(name, entry, dtype, shardings)
        flat[name] = jax.device_put(x, place.sharding) if isinstance(place, ocp.ArrayRestoreArgs) else x
    return flat


def _tree(metadata: Any) -> Mapping[str, Any]:
    """Orbax has moved the tree inside its metadata from version to version."""
    for name in ("item_metadata", "tree"):
        metadata = getattr(metadata, name, metadata)
    return metadata


def _check_stored(path: pathlib.Path, found: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = sorted(set(found) ^ set(stored))
    wrong += [
        f"{name} ({found[name].dtype} {tuple(found[name].shape)}, expected {entry['dtype']} {tuple(entry['shape'])})"
        for name, entry in stored.items()
        if name in found
        and (
            tuple(found[name].shape) != tuple(entry["shape"]) or np.dtype(found[name].dtype) != np.dtype(entry["dtype"])
        )
    ]
    if wrong:
        raise CheckpointError(f"{path}: differs from crab.json in {', '.join(wrong[:10])}; convert the weights again")


def _restore_args(path: str, entry: Mapping[str, Any], dtype: Any, shardings: Any) -> ocp.RestoreArgs:
    dtype = None if dtype is None else np.dtype(dtype)
    if shardings is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype)
    if isinstance(shardings, Mapping):
        if path not in shardings:
            raise CheckpointError(f"no sharding given for {path}")
        sharding = shardings[path]
    else:
        sharding = shardings if isinstance(shardings, jax.sharding.Sharding) else shardings(path, tuple(entry["shape"]))
    return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding, dtype=dtype)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Orbax writes a page of notes per save, and warns of every array that is read without a sharding."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
