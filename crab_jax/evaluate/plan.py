"""What is to be evaluated, and everything that the answers depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crab_jax.checkpoint import read_config, read_manifest
from crab_jax.evaluate.generate import Sampling
from crab_jax.evaluate.journal import SCHEMA
from crab_jax.evaluate.run import Run
from crab_jax.tasks import TASKS, Wording
from data_pipelines.records import ShardError, data_folder, open_shards
from data_pipelines.records import read_manifest as read_shards
from data_pipelines.stream.evaluation import Swap
from data_pipelines.stream.tables import Source


class EvaluationError(ValueError):
    """An evaluation that cannot start as it was asked for."""


def plan(
    shards: pathlib.Path, *, tasks: str, split: str, wording: Wording, mode: str, swap: Swap | None = None
) -> list[Run]:
    """What is to be run.

    Args:
        shards: folder of data sets.
        tasks: "all", or names with commas; "all" leaves out what has not been built.
        split: "test" stands for all splits whose name begins so, or for "val" where a data set has none.
        wording: how tasks ask.
        mode: "decoded", "teacher-forced" or "both".
        swap: as in `Run`.

    Raises:
        EvaluationError: no such task, split or data; or the wording shows no picture to segment.
        data_pipelines.records.ShardError: shards that are missing or damaged.
    """
    names = list(TASKS) if tasks == "all" else list(dict.fromkeys(filter(None, tasks.split(","))))
    if unknown := [name for name in names if name not in TASKS]:
        raise EvaluationError(f"--task {unknown[0]}: expected all, or some of {', '.join(TASKS)}, joined by commas")
    runs = []
    for name in names:
        if tasks == "all" and not (shards / name).is_dir():
            continue
        spec = TASKS[name]
        if spec.needs_masks and not spec.media[wording].image:
            usable = ", ".join(w.value for w in Wording if spec.media[w].image)
            raise EvaluationError(
                f"{name}: the wording {wording.value} shows no picture to segment; use --wording {usable}, or leave "
                "the task out"
            )
        modes = ["decoded"]
        if spec.needs_masks:
            modes = ["decoded", "teacher-forced"] if mode == "both" else [mode]
        for chosen in splits_of(shards, name, split):
            source = Source(open_shards(shards, name, chosen), spec)
            runs += [Run(source=source, mode=m, swap=swap) for m in modes]
    if not runs:
        raise EvaluationError(f"{shards}: expected data sets of {', '.join(names)}, found none; `crab data build` them")
    return runs


def splits_of(shards: pathlib.Path, task: str, split: str) -> list[str]:
    """The splits that a name stands for: "test" for all test splits, or for "val" where a data set has none.

    Raises:
        data_pipelines.records.ShardError: the data set, or the split, has not been built.
    """
    folder = data_folder(shards, task)
    built = list(read_shards(folder)["splits"])
    spec = TASKS[task]
    wanted = [split] if split in built else []
    if split == "test":
        wanted = [s for s in built if s.startswith("test")]
        if not any(s.startswith("test") for s in spec.splits):
            wanted = [s for s in built if s == "val"]
    if not wanted:
        raise ShardError(f"{folder}: expected the split {split!r} of {task}, found {', '.join(built)}")
    return wanted


def check_pictures(runs: Sequence[Run], size: int | None) -> None:
    """Holds the pictures in the shards against what the model looks at.

    Args:
        runs: what is to be asked.
        size: pixels per side that the model takes; None if the weights have no part that looks.

    Raises:
        EvaluationError: pictures of another size.
    """
    for shards in (each.source.shards for each in runs):
        if size is not None and shards.size != size:
            raise EvaluationError(
                f"{shards.folder}: pictures of {shards.size} pixels per side, the model looks at {size}; build the "
                f"data again with `crab data build {shards.task} --size {size}`"
            )


def settings_of(
    weights: pathlib.Path,
    *,
    dtype: str,
    wording: Wording,
    sampling: Sampling,
    variant: str | None = None,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """What every answer in a folder of results depends on, plain JSON types; another value, another folder.

    Args:
        weights: the folder.
        dtype, wording, sampling, variant: as in `crab_jax.load`.
        max_new_tokens: limit of the answers, if not the tasks' own.

    Raises:
        crab_jax.checkpoint.CheckpointError: no weights folder, or a broken one.
    """
    manifest = read_manifest(weights)
    config = read_config(weights, manifest)
    model = {"hidden_size": config.llama.hidden_size, "layers": config.llama.num_layers} if config.llama else {}
    return {
        "schema": SCHEMA,
        "weights": digest_of_weights(weights),
        "model": model | ({"image_size": config.clip.image_size} if config.clip else {}),
        "variant": variant,
        "dtype": dtype,
        "wording": wording.value,
        "sampling": dataclasses.asdict(sampling) if sampling.temperature else {"temperature": 0},
        "max_new_tokens": max_new_tokens,
    }


def about(each: Run) -> dict[str, Any]:
    """What the answers of one run depend on besides, plain JSON types."""
    shards = each.source.shards
    return {
        "task": shards.task,
        "split": shards.split,
        "mode": each.mode,
        "swap": each.swap,
        "shards": hashlib.sha256(shards.index_path.read_bytes()).hexdigest(),
        "prompts": hashlib.sha256(
            repr((each.source.spec.instruction, each.source.spec.media, each.source.spec.max_new_tokens)).encode()
        ).hexdigest()[:16],
    }


def digest_of_weights(folder: pathlib.Path) -> str:
    """Changes with every byte of a weights folder; the same for a copy of it."""
    files = sorted([*read_manifest(folder)["contents"], "crab.json", "tokenizer.model"])
    files = [name for name in dict.fromkeys(files) if (folder / name).is_file()]

    def one(name: str) -> bytes:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(one, files))
    return hashlib.sha256(b"".join(n.encode() + b"\0" + d for n, d in zip(files, digests, strict=True))).hexdigest()
