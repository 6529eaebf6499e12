"""What is reached without joining sound and picture, to stand beside the scores. No jax here.

A generated world knows what the most frequent answer reaches, and what a classifier reaches that has the attributes
of one sense (`crab world --baselines`). Not every one of its scores is one of ours; only equal ones are drawn together.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from crab_jax.evaluate import journal
from crab_jax.tasks import TASKS
from data_pipelines.generated import WORLD

BASELINES = "baselines.json"
SENSES = {"majority": "most frequent answer", "audio": "sound alone", "video": "picture alone"}
# Task and part of a world's table → the number of ours that counts the same.
_SAME = {
    ("avqa", ""): "accuracy",
    ("avqa", "Audio-Visual"): "accuracy/audio_visual",
    ("ave", ""): "accuracy",
    ("s4", ""): "miou",
    ("ms3", ""): "miou",
    ("arig", ""): "ciou",
    ("avcap", "retrieved"): "cider_d",
    ("avvp", "headline"): "segment/type",
    ("avss", "headline"): "miou",
    ("ref-avs", "headline"): "miou",
}
_SPLITS = {"ref-avs": "test_s"}


class BaselineError(ValueError):
    """No baselines where they were looked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the senses reach in one test set.

    Attributes:
        task, split: which.
        part: type of questions; empty for all.
        measure: what is counted, in words.
        number: our number that counts the same; empty if there is none.
        values: of `SENSES`, fractions; None where a sense gives no answer at all.
    """

    task: str
    split: str
    part: str
    measure: str
    number: str
    values: Mapping[str, float | None]


def bring(path: pathlib.Path, out: pathlib.Path) -> None:
    """Copies the baselines of a world into a folder of results; measures them if nobody has.

    Args:
        path: the root of the world, or its file of baselines.
        out: the folder.

    Raises:
        BaselineError: there are none.
        OSError: they cannot be written.
    """
    file = path / WORLD / BASELINES if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        from data_pipelines.world import baselines  # trains classifiers, and takes a while to import

        try:
            baselines.report(path)
        except ValueError as error:
            raise BaselineError(f"--baselines {path}: {error}") from error
    try:
        data = file.read_bytes()
        _parse(json.loads(data))
    except (OSError, ValueError) as error:
        raise BaselineError(f"--baselines {file}: expected a world or its baselines, found {error}") from error
    journal.publish(out / BASELINES, data)


def read_baselines(out: pathlib.Path) -> tuple[list[Baseline], list[str]]:
    """Baselines in a folder of results, and files that could not be used."""
    path = out / BASELINES
    try:
        return _parse(json.loads(path.read_bytes())), []
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        return [], [f"{path}: expected baselines, found {error}; give --baselines again"]


def of(baselines: Sequence[Baseline], task: str, split: str) -> list[Baseline]:
    """Those of one test set."""
    return [b for b in baselines if (b.task, b.split) == (task, split)]


def to_json(baselines: Sequence[Baseline]) -> list[dict[str, Any]]:
    """Plain JSON types."""
    return [dataclasses.asdict(b) | {"values": dict(b.values)} for b in baselines]


def _parse(table: Any) -> list[Baseline]:
    if not isinstance(table, dict):
        raise ValueError(f"{type(table).__name__} instead of an object")
    found = []
    for name, row in table.items():
        task, _, part = (piece.strip() for piece in name.partition(","))
        if task not in TASKS or not isinstance(row, dict) or not isinstance(row.get("score"), str):
            raise ValueError(f"no row of baselines: {name!r}")
        values = {sense: row.get(sense) for sense in SENSES}
        for sense, value in values.items():
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
                raise ValueError(f"{name}, {sense}: {value!r} is no number")
        found.append(
            Baseline(
                task=task,
                split=_SPLITS.get(task, "test"),
                part=part,
                measure=row["score"],
                number=_SAME.get((task, part), ""),
                values={sense: None if value is None else value / 100 for sense, value in values.items()},
            )
        )
    return found
