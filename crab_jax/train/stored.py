"""One checkpoint on disk: its names, its description and its arrays, read and compared."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from crab_jax.groups import CheckpointError, describe, quiet
from crab_jax.params import Flat, flatten, nest

FORMAT = 1
READ_ERRORS = (ValueError, KeyError, TypeError, OSError, RuntimeError, AttributeError, MemoryError)
# What TensorStore's messages begin with if the files are at fault. Those about bytes that cannot be decoded begin with
# no status at all; an error of the system has its number somewhere behind.
_DAMAGE = ("NOT_FOUND", "OUT_OF_RANGE", "DATA_LOSS", "FAILED_PRECONDITION")
_STATUS = re.compile(r"([A-Z_]+): ")
_SYSTEM = re.compile(r"os_error_code='(\d+)'|\[OS error (\d+)")


class Damaged(CheckpointError):
    """A checkpoint whose files are missing or hold something else; the one before it may be whole."""


class Unreadable(CheckpointError):
    """A checkpoint that may be whole: reading it failed, and its files do not show why."""


class Mismatch(CheckpointError):
    """A sound checkpoint of another run: other shapes, weights or settings."""


def named(tree: Any) -> Flat:
    """A pytree as flat dict; names are made of keys, fields and positions."""

    def name(key: Any) -> str:
        for field in ("key", "name", "idx"):
            if hasattr(key, field):
                return str(getattr(key, field))
        raise TypeError(f"no name for {key!r}")

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(map(name, path)): leaf for path, leaf in leaves}


def rebuild(like: Any, flat: Mapping[str, Any]) -> Any:
    """The inverse of `named`."""
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in named(like)])


def read_about(place: pathlib.Path) -> dict[str, Any]:
    """The JSON of one checkpoint.

    Raises:
        Damaged: it is not there or no JSON.
        Unreadable: the machine could not read it.
        Mismatch: another format.
    """
    try:
        about = json.loads((place / "about" / "metadata").read_text(encoding="utf-8"))
        found, _, _ = about["format"], about["arrays"], about["config"]
    except READ_ERRORS as error:
        raise failed(place, error) from error
    if found != FORMAT:
        raise Mismatch(f"{place}: format {found!r}, this version reads {FORMAT}")
    return about


def read_trainables(place: pathlib.Path) -> Flat:
    """The trained parameters of one checkpoint as NumPy arrays.

    Args:
        place: `DIR/<step>`.

    Raises:
        CheckpointError: it cannot be read.
    """
    stored = read_about(place)["arrays"]
    wanted = {n: jax.ShapeDtypeStruct(e["shape"], e["dtype"]) for n, e in stored.items() if n.startswith("params/")}
    try:
        flat = read_arrays(place / "arrays", wanted)
    except READ_ERRORS as error:
        raise failed(place, error) from error
    return {name.removeprefix("params/"): x for name, x in flat.items()}


def read_arrays(path: pathlib.Path, wanted: Mapping[str, Any]) -> Flat:
    """Reads `wanted` and nothing else; names, shapes and dtypes are checked here, because Orbax casts and cuts.

    Args:
        path: `DIR/<step>/arrays`.
        wanted: name → `jax.ShapeDtypeStruct`. With a sharding the array is put there, else it is read as NumPy array.

    Raises:
        ValueError: an array that is not there or another one; Orbax raises further kinds, see `READ_ERRORS`.
    """
    os.listdir(f"{path}/.")  # Orbax takes a folder that it may not look into for one that is not there
    # The handler alone: `ocp.Checkpointer` has barriers around it, which wait for ever for a process that cannot read.
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=processes())
    with contextlib.closing(handler), quiet():
        metadata = handler.metadata(path)
        for name in ("item_metadata", "tree"):  # Orbax has moved the tree from version to version
            metadata = getattr(metadata, name, metadata)
        found = flatten(metadata)
        for name, leaf in wanted.items():
            if name not in found or describe(found[name]) != describe(leaf):
                raise ValueError(
                    f"{name}: {describe(found[name]) if name in found else 'missing'}, not {describe(leaf)}"
                )

        def args(leaf: Any) -> ocp.RestoreArgs:
            if getattr(leaf, "sharding", None) is None:
                return ocp.RestoreArgs(restore_type=np.ndarray)
            return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=leaf.sharding)

        restore_args = nest({name: args(leaf) for name, leaf in wanted.items()})
        restore = ocp.args.PyTreeRestore(
            item=nest(dict.fromkeys(wanted, 0)), restore_args=restore_args, partial_restore=True
        )
        flat = flatten(handler.restore(path, args=restore))
    for name, leaf in wanted.items():
        if describe(flat[name]) != describe(leaf):
            raise ValueError(f"{name}: read as {describe(flat[name])}, expected {describe(leaf)}")
    return flat


def check_arrays(place: pathlib.Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares names, shapes and dtypes.

    Args:
        place: for the message.
        stored: name → description, of a checkpoint.
        wanted: name → anything with shape and dtype.

    Raises:
        Mismatch: naming what differs.
    """
    wrong = [f"{n}: only in the checkpoint" for n in stored if n not in wanted]
    for name, leaf in wanted.items():
        if name not in stored:
            wrong.append(f"{name}: not in the checkpoint")
        elif stored[name] != describe(leaf):
            entry, here = stored[name], describe(leaf)
            wrong.append(f"{name}: {entry['dtype']} {entry['shape']} there, {here['dtype']} {here['shape']} here")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise Mismatch(
            f"{place}: another model or another choice of what trains: {'; '.join(wrong[:8])}{more}. Use the config "
            "that the run was started with, or another --workdir"
        )


def check_same(place: pathlib.Path, stored: Mapping[str, Any], about: Mapping[str, Any], free: frozenset[str]) -> None:
    """Compares config and fingerprint.

    Raises:
        Mismatch: naming what differs.
    """
    then, now = _dotted(stored.get("config", {})), _dotted(about.get("config", {}))
    differ = [
        f"{name} was {then.get(name, 'absent')!r}, is {now.get(name, 'absent')!r}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name) and not any(name == f or name.startswith(f"{f}.") for f in free)
    ]
    if differ:
        more = f" and {len(differ) - 8} more" if len(differ) > 8 else ""
        raise Mismatch(
            f"{place}: the run was started with another config: {'; '.join(differ[:8])}{more}. Restore these values, "
            "or choose another --workdir"
        )
    then, now = stored.get("fingerprint", {}), about.get("fingerprint", {})
    if parts := [part for part in sorted({*then, *now}) if then.get(part) != now.get(part)]:
        raise Mismatch(
            f"{place}: the frozen weights are others than when the run was started ({', '.join(parts)} differ); give "
            "the same base weights in the same dtype, or choose another --workdir. Weights that are drawn at random, "
            "as without stage.base, are drawn anew each time: their last bits depend on the devices, the mesh, the "
            "version of JAX and XLA_FLAGS, so all of these have to be as they were"
        )


def _dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _dotted(inner, f"{prefix}{name}.")
    return flat


def failed(place: pathlib.Path, error: Exception) -> CheckpointError:
    """What an error of `READ_ERRORS` says about a checkpoint.

    Args:
        place: `DIR/<step>`.
        error: that ended reading it.

    Returns:
        `Damaged` only if the files must be at fault. Too many open files, a disk that does not answer, a lack of
        permission or memory, and what nobody knows are `Unreadable`.
    """
    what = f"{type(error).__name__}: {short(error)}"
    code = _system_error(error)
    if _shows_damage(error, code):
        return Damaged(f"{place}: {what}")
    if code is not None:  # TensorStore says it last, behind all that it was doing
        what = f"{os.strerror(code)}; {what}"
    return Unreadable(
        f"{place}: could not be read ({what}). It may be whole and was left as it is: see to the cause (the disk, "
        "permissions, memory, open files: ulimit -n) and start the same command again. If it is lost, move it away: "
        "then the one before it is used"
    )


def _shows_damage(error: Exception, code: int | None) -> bool:
    if code is not None or isinstance(error, OSError):
        missing = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
        return missing or code in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)
    if isinstance(error, (RuntimeError, MemoryError)):
        return False
    status = _STATUS.match(str(error))
    return status is None or status[1] in _DAMAGE


def _system_error(error: Exception) -> int | None:
    """The number that the operating system gave an error, if it is one of its own."""
    if isinstance(error, OSError):
        return error.errno
    found = _SYSTEM.search(str(error))
    return int(found[1] or found[2]) if found else None


def short(error: Exception) -> str:
    """The beginning of a message, on one line."""
    return " ".join(str(error).split())[:200]


def processes() -> ocp.options.MultiprocessingOptions:
    """Naming the processes makes Orbax meet through the coordinator, with a time limit, not through the devices."""
    number = jax.process_count()
    return ocp.options.MultiprocessingOptions(active_processes=set(range(number)) if number > 1 else None)
