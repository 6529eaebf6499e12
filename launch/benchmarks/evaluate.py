"""`python -m launch.bench evaluate`: items per second of every task, and the share of time that goes into compiling.

The whole command is run in a process of its own, twice: with an empty cache of compiled programs, and with the one that
the first run filled.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from crab_jax import cli
from crab_jax.checkpoint import read_config, read_manifest
from crab_jax.evaluate.report.findings import SPEED
from crab_jax.tasks import TASKS
from data_pipelines.world import build
from launch.benchmarks.data import Figure, as_json, text
from launch.benchmarks.timing import Spread
from launch.quickstart import write_random_weights

CACHES = {"empty cache": "compiles everything", "warm cache": "reads compiled programs"}
__all__ = ["as_json", "measure", "text"]  # the form of `Figure`


class BenchError(RuntimeError):
    """A command that the benchmark needs has failed."""


def measure(
    *,
    folder: pathlib.Path | None,
    weights: pathlib.Path | None,
    items: int,
    batch: int,
    dtype: str,
    progress: Callable[[Figure], None],
    tasks: Sequence[str] = tuple(TASKS),
) -> list[Figure]:
    """Renders test sets, evaluates them with both caches, and reads the times.

    Args:
        folder: where clips and shards stay; None: in a temporary folder.
        weights: of the model; None: the toy size with random numbers.
        items: at most, of every test set.
        batch, dtype: as in `crab eval`.
        progress: called with every finished figure.
        tasks: which.

    Raises:
        BenchError: rendering, building or evaluating failed.
    """
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch) if folder is None else folder
        if weights is None:
            weights = place / "weights"
            write_random_weights(weights, seed=0)
        shards = _shards(place, _image_size(weights), tasks, items)
        cache = pathlib.Path(scratch) / "cache"
        for name, about in CACHES.items():
            out = pathlib.Path(scratch) / name
            started = time.perf_counter()
            _evaluate(shards, weights, out, cache, items=items, batch=batch, dtype=dtype, tasks=tasks)
            seconds = time.perf_counter() - started
            for figure in _figures(out, name, about, seconds):
                figures.append(figure)
                progress(figure)
    return figures


def _image_size(weights: pathlib.Path) -> int:
    return read_config(weights, read_manifest(weights)).clip.image_size


def _shards(place: pathlib.Path, size: int, tasks: Sequence[str], items: int) -> pathlib.Path:
    """The test sets: as many clips of each as items are wanted (a clip may have several)."""
    world, shards = place / "world", place / "shards"
    splits = ["--splits", "test"]
    jobs = os.cpu_count() or 1
    build.build(world, clips=1, share=0, least=items, seed=0, tasks=tasks, jobs=jobs)
    commands = []
    for task in tasks:
        chosen = ["--splits", "test_s"] if task == "ref-avs" else splits
        commands.append(
            ["data", "build", task, "--root", str(world), "--out", str(shards), "--size", str(size), *chosen]
        )
    for arguments in commands:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the table
            if code := cli.main(arguments):
                raise BenchError(f"crab {' '.join(arguments)}: ended with {code}")
    return shards


def _evaluate(
    shards: pathlib.Path, weights: pathlib.Path, out: pathlib.Path, cache: pathlib.Path, *, items: int, batch: int,
    dtype: str, tasks: Sequence[str],
) -> None:  # fmt: skip
    command = [
        sys.executable, "-m", "crab_jax.cli", "eval", "--shards", str(shards), "--weights", str(weights),
        "--out", str(out), "--task", ",".join(tasks), "--limit", str(items), "--batch", str(batch), "--dtype", dtype,
        "--mode", "decoded", "--gallery", "0", "--router", "0",
    ]  # fmt: skip
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"crab eval: ended with {done.returncode}: {done.stderr[-2000:]}")


def _figures(out: pathlib.Path, name: str, about: str, seconds: float) -> Iterator[Figure]:
    """A row per run, then the whole command."""
    runs = json.loads((out / SPEED).read_bytes())
    for run, told in runs.items():
        compiled = told["items_per_s_compiled"]
        yield Figure(
            section=f"{name.capitalize()}: {about}",
            what=f"{run.removesuffix(', decoded')}, {told['items']} items",
            unit="items/s",
            value=Spread.of(np.array([told["items_per_s"]])),
            against=f"{told['compile_share']:.0%} of the time compiling"
            + ("" if compiled is None else f"; {compiled:.2f} items/s without"),
        )
    inside = sum(told["seconds"] for told in runs.values())
    compiling = sum(told["compile_s"] for told in runs.values())
    yield Figure(
        section=f"{name.capitalize()}: {about}",
        what=f"the whole command, {sum(told['items'] for told in runs.values())} items",
        unit="s",
        value=Spread.of(np.array([seconds])),
        against=f"{inside:.1f} s of it answering, of which {compiling / inside:.0%} compiling; the rest is starting, "
        "loading, scoring, and the page",
    )
