"""Checkpoints of a run: everything that a step changes, and what it must be put together with.

    DIR/<step>/arrays/   trainables, optimizer state, step and random key (Orbax)
    DIR/<step>/about/    JSON: config, fingerprint of the frozen weights, every array's shape and dtype, the position
                         in the data

The frozen base is not in it: it is read again, and its fingerprint is compared. A checkpoint appears under its number
only when it is complete; one that turns out to be damaged is set aside as `damaged-<step>` for the one before it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from crab_jax.groups import CheckpointError, describe, nbytes
from crab_jax.params import Flat, flatten, nest

FORMAT = 1
_READ_ERRORS = (ValueError, KeyError, TypeError, OSError, RuntimeError, AttributeError)
_WRITE_ERRORS = (ValueError, OSError, RuntimeError)


class Damaged(CheckpointError):
    """A checkpoint that cannot be read back; the one before it may."""


class Mismatch(CheckpointError):
    """A sound checkpoint of another run: other shapes, weights or settings."""


class Checkpoints:
    """The checkpoints of one run, newest first. Use as a context manager: leaving it waits for the last save.

    Args:
        directory: where they lie; made if it is not there.
        keep_last: how many of the newest stay.
        keep_best: how many with the lowest loss stay as well.
        timeout_s: after so long a save is an error, seconds.
    """

    def __init__(self, directory: str | os.PathLike, *, keep_last: int = 2, keep_best: int = 1, timeout_s: int = 1200):
        self.directory = pathlib.Path(os.path.abspath(directory))
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
        policies = [LatestN(keep_last)]
        if keep_best:
            policies.append(
                BestN(get_metric_fn=_loss, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False)
            )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            async_options=ocp.AsyncOptions(timeout_secs=timeout_s),
            cleanup_tmp_directories=True,
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        with _quiet():
            return ocp.CheckpointManager(
                self.directory,
                options=self._options,
                item_handlers={"arrays": ocp.PyTreeCheckpointHandler(), "about": ocp.JsonCheckpointHandler()},
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.wait()
            self._manager.close()
        else:  # the first error counts, not that of a save which fails because of it
            with contextlib.suppress(*_WRITE_ERRORS):
                self._manager.close()

    def steps(self) -> list[int]:
        """Numbers of the complete checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, about: Mapping[str, Any], *, loss: float) -> None:
        """Starts writing; the device memory may be given away as soon as this returns.

        Args:
            step: its number; an existing one is left as it is.
            state: a pytree of JAX arrays.
            about: JSON types, see `restore`.
            loss: what "best" means; NaN if unknown.

        Raises:
            CheckpointError: it does not fit on the disk, or the save before it failed.
        """
        if step in self._manager.all_steps():
            return
        arrays = named(state)
        self._check_space(sum(nbytes(x) for x in arrays.values()))
        about = {**about, "format": FORMAT, "step": step, "arrays": {n: describe(x) for n, x in arrays.items()}}
        args = ocp.args.Composite(
            arrays=ocp.args.PyTreeSave(nest(arrays)),
            about=ocp.args.JsonSave(about),
        )
        with self._failing(f"checkpoint {step}"):
            metrics = {"loss": float(loss)} if np.isfinite(loss) else None
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Waits for the save that is under way.

        Raises:
            CheckpointError: it failed.
        """
        with self._failing("the last checkpoint"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def restore(
        self, like: Any, about: Mapping[str, Any], *, free: frozenset[str] = frozenset()
    ) -> tuple[Any, Any] | None:
        """Reads the newest checkpoint that is whole, onto whatever mesh `like` is on.

        Args:
            like: the pytree of `jax.ShapeDtypeStruct` with shardings that is wanted.
            about: what must be as it was when the run started: the entries `config` and `fingerprint` are compared.
            free: dotted names of config entries that may differ.

        Returns:
            The state and the stored `about`; None if there is no checkpoint.

        Raises:
            Mismatch: it is of another run; nothing is read in its place.
            CheckpointError: there are some, and none can be read.
        """
        damaged = []
        for step in self.steps():
            try:
                return self._restore_one(step, like, about, free)
            except Damaged as error:
                damaged.append(str(error))
                logging.getLogger(__name__).warning("%s: set aside, the one before it is used", error)
                self._set_aside(step)
        if damaged:
            raise CheckpointError(
                f"{self.directory}: none of {len(damaged)} checkpoints can be read ({'; '.join(damaged)[:400]}); start "
                "again in another folder"
            )
        return None

    def _restore_one(self, step: int, like: Any, about: Mapping[str, Any], free: frozenset[str]) -> tuple[Any, Any]:
        place = self.directory / str(step)
        error: Exception | None = None
        stored: dict[str, Any] = {}
        state = None
        try:
            stored = read_about(place)
            check_same(place, stored, about, free)
            wanted = named(like)
            _check_arrays(place, stored["arrays"], wanted)
            state = rebuild(like, _read_arrays(place / "arrays", wanted))
        except Mismatch:
            raise
        except _READ_ERRORS as found:
            error = found
        # Every process must come to the same conclusion, though each reads other bytes.
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.array(error is not None)).any()
            error = error or (ValueError("another process could not read it") if failed else None)
        if error is not None:
            raise Damaged(f"{place}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        return state, stored

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        if jax.process_index() == 0:
            target = self.directory / f"damaged-{step}"
            shutil.rmtree(target, ignore_errors=True)
            os.rename(self.directory / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"damaged {step}")
        self._manager = self._open()

    def _check_space(self, need: int) -> None:
        if jax.process_index() or not self.directory.exists():
            return
        free = shutil.disk_usage(self.directory).free
        if free < need * 1.02 + (1 << 20):
            raise CheckpointError(
                f"{self.directory}: a checkpoint needs about {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
                f"{self._advice()}"
            )

    def _advice(self) -> str:
        steps = self.steps()
        good = f"checkpoint {steps[0]} is the last good one" if steps else "there is no good one yet"
        return f"make room and start the same command again ({good})"

    @contextlib.contextmanager
    def _failing(self, what: str):
        try:
            with _quiet():
                yield
        except _WRITE_ERRORS as error:
            self._manager.reload()
            raise CheckpointError(
                f"{self.directory}: {what} could not be written ({' '.join(str(error).split())[:200]}); "
                f"{self._advice()}"
            ) from error


# --- the parts of a checkpoint ----------------------------------------------------------------------------------------


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
        Mismatch: another format.
    """
    try:
        about = json.loads((place / "about" / "metadata").read_text(encoding="utf-8"))
        found, _, _ = about["format"], about["arrays"], about["config"]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise Damaged(f"{place}: its description cannot be read ({type(error).__name__}: {error})") from error
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
        flat = _read_arrays(place / "arrays", wanted)
    except _READ_ERRORS as error:
        raise Damaged(f"{place}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return {name.removeprefix("params/"): x for name, x in flat.items()}


def _read_arrays(path: pathlib.Path, wanted: Mapping[str, Any]) -> Flat:
    """Reads `wanted` and nothing else; names, shapes and dtypes are checked here, because Orbax casts and cuts."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, _quiet():
        metadata = checkpointer.metadata(path)
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
        flat = flatten(checkpointer.restore(path, args=restore))
    for name, leaf in wanted.items():
        if describe(flat[name]) != describe(leaf):
            raise ValueError(f"{name}: read as {describe(flat[name])}, expected {describe(leaf)}")
    return flat


def _check_arrays(place: pathlib.Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
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
            "the same base weights in the same dtype, or choose another --workdir"
        )


def _dotted(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _dotted(inner, f"{prefix}{name}.")
    return flat


@contextlib.contextmanager
def _quiet():
    """Orbax writes a page of notes per save, and warns of every array that is read without a sharding."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _loss(metrics: Mapping[str, float]) -> float:
    return metrics["loss"]
