"""Scores a file of answers without a model: one that an evaluation wrote, or one made or edited by hand."""

from __future__ import annotations

import pathlib
from typing import Any

from crab_jax.evaluate import journal, table
from crab_jax.evaluate.plan import EvaluationError, splits_of
from crab_jax.evaluate.score import SCORES, Scored, generated, item_ids, score
from crab_jax.evaluate.write_table import write
from crab_jax.tasks import TASKS
from data_pipelines.records import open_shards
from data_pipelines.stream.tables import Source


def score_file(
    path: pathlib.Path,
    *,
    shards: pathlib.Path | None,
    task: str | None = None,
    split: str = "test",
    limit: int | None = None,
    out: pathlib.Path | None = None,
) -> tuple[Scored, str]:
    """Scores answers against shards. The file itself is left as it is.

    Args:
        path: the file, or its folder.
        shards: the folder of data sets, which hold the true answers.
        task: which; None: what `run.json` beside the file says.
        split: of the data set; "test": what `run.json` says, or the one test split there is.
        limit: only the first so many items.
        out: where to write scores and table; None writes nothing.

    Returns:
        The scores, and the table as Markdown.

    Raises:
        EvaluationError: it is not clear what the answers are of, or there are none.
        crab_jax.evaluate.score.ScoreError: they belong to another test set.
        ValueError: shards or files that cannot be read.
        OSError: results cannot be written.
    """
    path = path / journal.ITEMS if path.is_dir() else path
    read = journal.read_lines([path])
    known = journal.read_settings(path.parent) or {}
    task = task or known.get("task")
    if task not in TASKS:
        raise EvaluationError(f"{path}: say which task its answers are of: --task, one of {', '.join(TASKS)}")
    if shards is None:
        raise EvaluationError("--score: the true answers are in the shards; give --shards DIR")
    same = known.get("task") == task
    splits = [known["split"]] if same and split == "test" and "split" in known else splits_of(shards, task, split)
    if len(splits) > 1:
        raise EvaluationError(f"--score: {task} has several test splits, say which: --split {' or '.join(splits)}")
    if not read.lines:
        raise EvaluationError(f"{path}: no answers in it" + "".join(f"; {b}" for b in read.broken[:1]))
    source = Source(open_shards(shards, task, splits[0]), TASKS[task])
    scored = score(source, read.lines, folder=path.parent, broken=read.broken, limit=limit)
    told: dict[str, Any] = {"task": task, "split": splits[0], "mode": "decoded", "swap": None, "limit": limit}
    told |= {name: known[name] for name in ("mode", "swap") if same and name in known}
    told |= {"items_in_split": len(item_ids(source)), "generated": generated(source)} | scored.to_json()
    key = (told["mode"], told["swap"])
    if key not in table.COLUMNS:
        raise EvaluationError(f"{path.parent / journal.SETTINGS}: expected a mode and a swap, found {key}")
    why = table.why_not_paper(known.get("model"), [told])
    sets = [table.TestSet(task=task, split=splits[0], runs={key: told}, why_not_paper=why)]
    text = table.to_markdown(sets, known)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        journal.publish(out / SCORES, journal.encode(told, indent=1))
        write(out, sets, known)
    return scored, text
