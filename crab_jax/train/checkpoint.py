"""Checkpoints of a run: everything that a step changes, and what it must be put together with.

    DIR/<step>/arrays/   trainables, optimizer state, step and random key (Orbax)
    DIR/<step>/about/    JSON: config, fingerprint of the frozen weights, every array's shape and dtype, the position
                         in the data

The frozen base is not in it: it is read again, and its fingerprint is compared. A checkpoint appears under its number
only when it is complete; one whose files turn out to be damaged is set aside as `damaged-<step>` for the one before it.
One that cannot be read for another reason stays where it is, and ends the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from crab_jax.groups import CheckpointError, describe, nbytes, quiet
from crab_jax.params import nest
from crab_jax.train.processes import gather
from crab_jax.train.stored import (
    FORMAT,
    READ_ERRORS,
    Damaged,
    Mismatch,
    Unreadable,
    check_arrays,
    check_same,
    failed,
    named,
    processes,
    read_about,
    read_arrays,
    read_trainables,
    rebuild,
    short,
)

_WRITE_ERRORS = (ValueError, OSError, RuntimeError)
_ANEW = "remove them to start anew from the first step, or choose another --workdir"


class Checkpoints:
    """The checkpoints of one run, newest first. Use as a context manager: leaving it waits for the last save.

    With several processes, all of them do the same with it in the same order. They meet through the coordinator, with a
    time limit, and never through collectives on the devices: those would wait for ever for a process that has failed.

    Args:
        directory: where they lie; made if it is not there.
        keep_last: how many of the newest stay.
        keep_best: how many with the lowest loss stay as well.
        timeout_s: after so long a save is an error, seconds.

    Raises:
        CheckpointError: the folder cannot be made.
    """

    def __init__(self, directory: str | os.PathLike, *, keep_last: int = 2, keep_best: int = 1, timeout_s: int = 1200):
        self.directory = pathlib.Path(os.path.abspath(directory))
        problem = ""
        if jax.process_index() == 0:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = f"{self.directory}: cannot be made ({error}); choose a folder that can be written"
        self._agree("the folder of checkpoints", problem)
        policies = [LatestN(keep_last)]
        if keep_best:
            policies.append(
                BestN(get_metric_fn=_loss, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False)
            )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            async_options=ocp.AsyncOptions(timeout_secs=timeout_s),
            cleanup_tmp_directories=True,
            create=False,
            multiprocessing_options=processes(),
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        with quiet():
            return ocp.CheckpointManager(
                self.directory,
                options=self._options,
                item_handlers={
                    "arrays": ocp.PyTreeCheckpointHandler(multiprocessing_options=processes()),
                    "about": ocp.JsonCheckpointHandler(multiprocessing_options=processes()),
                },
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
        self._agree(f"room for checkpoint {step}", self._no_space(sum(nbytes(x) for x in arrays.values())))
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
            Unreadable: it may be whole, but could not be read; nothing is read in its place.
            CheckpointError: there are some, and none can be read.
        """
        damaged = []
        # A shared disk may show others an older list.
        steps, aside = gather("the list of checkpoints", [self.steps(), self._aside()])[0]
        if aside and not steps:
            raise CheckpointError(
                f"{self.directory}: no good checkpoint, only {', '.join(aside)}, which could not be read back; {_ANEW}"
            )
        for step in steps:
            try:
                return self._restore_one(step, like, about, free)
            except Damaged as error:
                damaged.append(str(error))
                logging.getLogger(__name__).warning("%s: set aside, the one before it is used", error)
                self._set_aside(step)
        if damaged:
            raise CheckpointError(
                f"{self.directory}: none of {len(damaged)} checkpoints can be read ({'; '.join(damaged)[:400]}); "
                f"{_ANEW}"
            )
        return None

    def _restore_one(self, step: int, like: Any, about: Mapping[str, Any], free: frozenset[str]) -> tuple[Any, Any]:
        place = self.directory / str(step)
        problem = cause = result = None
        try:
            stored = read_about(place)
            check_same(place, stored, about, free)
            wanted = named(like)
            check_arrays(place, stored["arrays"], wanted)
            result = rebuild(like, read_arrays(place / "arrays", wanted)), stored
        except CheckpointError as error:
            problem = cause = error
        except READ_ERRORS as error:
            problem, cause = failed(place, error), error
        # Every process must come to the same conclusion, though each reads other bytes and has its own config. Damage
        # comes last: nothing is set aside that one of them could not look at.
        mine = type(problem).__name__ if problem else ""
        answers = gather(f"reading checkpoint {step}", [mine, str(problem or "")])
        for kind in (Mismatch, Unreadable, Damaged):
            for number, (theirs, text) in enumerate(answers):
                if theirs == kind.__name__:
                    raise kind(text if theirs == mine else f"process {number}: {text}") from cause
        return result

    def _aside(self) -> list[str]:
        """Names of the damaged ones that were set aside."""
        return sorted(path.name for path in self.directory.glob("damaged-*"))

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        problem = ""
        if jax.process_index() == 0:
            target = self.directory / f"damaged-{step}"
            try:
                shutil.rmtree(target, ignore_errors=True)
                os.rename(self.directory / str(step), target)
            except OSError as error:
                problem = f"{self.directory}: the damaged checkpoint {step} cannot be set aside ({error}); remove it"
        self._agree(f"setting checkpoint {step} aside", problem)
        self._manager = self._open()

    def _agree(self, what: str, problem: str) -> None:
        """Raises in all processes what is wrong in any of them."""
        if found := [text for text in gather(what, problem) if text]:
            raise CheckpointError(found[0])

    def _no_space(self, need: int) -> str:
        if jax.process_index():
            return ""
        if not self.directory.is_dir():
            return f"{self.directory}: the folder has gone; was the disk taken away, or the folder moved?"
        free = shutil.disk_usage(self.directory).free
        if free >= need * 1.02 + (1 << 20):
            return ""
        return (
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
            with quiet():
                yield
        except _WRITE_ERRORS as error:
            with contextlib.suppress(*_WRITE_ERRORS):  # the folder itself may have gone
                self._manager.reload()
            raise CheckpointError(
                f"{self.directory}: {what} could not be written ({short(error)}); {self._advice()}"
            ) from error


def _loss(metrics: Mapping[str, float]) -> float:
    return metrics["loss"]


__all__ = [
    "CheckpointError", "Checkpoints", "Damaged", "Mismatch", "Unreadable", "named", "read_about", "read_trainables",
]  # fmt: skip
