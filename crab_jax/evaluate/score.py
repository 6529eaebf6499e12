"""Answers in a file, held against the questions in shards: every named number, and everything that did not fit.

The truth always comes from the shards, and an answer from its text: what else a file says about itself is not believed.
So a finished evaluation, a continued one and a file edited by hand are scored alike. No jax here.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from crab_jax.evaluate.answers import understand
from crab_jax.evaluate.journal import Line
from crab_jax.evaluate.mask_files import MaskFileError, read_mask
from crab_jax.metrics import CaptionScores, Item, ItemError, Metric, match, metric_for
from crab_jax.tasks import Answer, RowError, Unparsed
from crab_jax.tasks.clips import Ask
from data_pipelines.generated import mark_in
from data_pipelines.records import Entry, Record, read_manifest
from data_pipelines.stream.tables import Source

SCORES = "scores.json"
PROBLEMS = {
    "missing": "items without an answer; they count as unparsed",
    "failed": "items that could not be read or answered; they count as unparsed",
    "contradictory": "items with several different answers; they count as unparsed",
    "repeated": "items with several equal answers; one counts",
    "unexpected": "answers to no item of this test set; they are left out",
    "broken_lines": "lines that are no answers; they are left out",
    "edited": "answers whose stored value is not what their text says; the text counts",
    "unfit": "answers that do not fit their item, such as a mask of another size; they count as unparsed",
    "remarks": "answers that can be scored, but not as the model gave them",
    "unscorable": "items whose truth cannot be read; they are not counted",
}


class ScoreError(ValueError):
    """Answers that cannot be held against this test set at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """The result of one test set.

    Attributes:
        metric: has counted every item.
        numbers: `Metric.result()`.
        expected: how many items were to be answered.
        answered: how many of them have an answer, understood or not.
        problems: kind, as in `PROBLEMS` → names and reasons, complete.
        notes: what the reader of the answers should know, such as that other weights stood in.
        lines: the answers that count, in the order of the items, with `scores`.
    """

    metric: Metric
    numbers: Mapping[str, float]
    expected: int
    answered: int
    problems: Mapping[str, Sequence[str]]
    notes: Sequence[str]
    lines: Sequence[Line]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, without the lines; NaN becomes null."""
        return {
            "headline": list(self.metric.headline),
            "lower_is_better": self.metric.lower_is_better,
            "expected": self.expected,
            "answered": self.answered,
            "numbers": {k: None if math.isnan(v) else v for k, v in self.numbers.items()},
            "problems": {k: list(v) for k, v in self.problems.items() if v},
            "notes": list(self.notes),
            "state": self.metric.to_json(),
        }

    def told(self) -> list[str]:
        """The notes, and a line per kind of problem: how many, what it means, and the first few."""
        return [f"note: {note}" for note in self.notes] + [
            f"{len(names)} {kind} ({PROBLEMS[kind]}): "
            + "; ".join(str(n)[:200] for n in names[:3])
            + ("; …" if len(names) > 3 else "")
            for kind, names in self.problems.items()
            if names
        ]


def kind_of(ask: Ask) -> tuple[str, ...]:
    """The type of a question, where the data set has types: `("Audio", "Counting")`."""
    kind = ask.raw.get("type", ())
    return tuple(kind) if isinstance(kind, (list, tuple)) and all(isinstance(k, str) for k in kind) else ()


def item_ids(source: Source, limit: int | None = None) -> list[str]:
    """Ids of the items of a split, in their order; at most `limit`.

    Raises:
        data_pipelines.records.ShardError: the index is damaged.
    """
    return [ask.id for entry in source.shards.index() for ask in entry.asks][:limit]


def generated(source: Source) -> dict[str, Any] | None:
    """The mark of a test set that this project rendered itself; None for real data.

    Raises:
        data_pipelines.records.ShardError: the description of the shards is damaged.
    """
    return mark_in(read_manifest(source.shards.folder))


def score(
    source: Source,
    lines: Sequence[Line],
    *,
    folder: pathlib.Path,
    broken: Sequence[str] = (),
    limit: int | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> Scored:
    """Scores answers.

    Args:
        source: the test set.
        lines: answers, in any order.
        folder: that the paths of masks are relative to.
        broken: lines that could not be read, to be reported with the rest.
        limit: only the first so many items count.
        progress: called once per item.

    Raises:
        ScoreError: the answers belong to another test set, or its ids are not unique.
        data_pipelines.records.ShardError: the index of the shards is damaged.
    """
    ids = item_ids(source)
    wanted = ids[:limit]
    later = set(ids) - set(wanted)
    by_id = {line["id"]: line for line in reversed(lines)}
    try:
        found, mismatch = match(wanted, [(line["id"], _essence(line)) for line in lines if line["id"] not in later])
    except ValueError as error:
        raise ScoreError(f"{source.name}: {error}") from error
    problems: dict[str, list[str]] = {name: [] for name in PROBLEMS}
    for name, names in mismatch.to_json().items():
        problems[name] += names
    problems["broken_lines"] += broken
    lost = dict.fromkeys(mismatch.missing, "no answer") | dict.fromkeys(mismatch.contradictory, "several answers")
    metric = metric_for(source.shards.task, source.shards.split)
    scores: dict[str, dict[str, float]] = {}
    keep = set(wanted)
    for entry, record, ask in _asks(source, keep):
        progress()
        line = by_id[ask.id] if ask.id in found else None
        if line is not None and "error" in line:
            problems["failed"].append(f"{ask.id}: {line['error']}")
        try:
            item = _item(source, entry, record, ask, line, lost.get(ask.id, ""), folder, problems)
        except (RowError, ValueError, IndexError, OSError) as error:
            problems["unscorable"].append(f"{ask.id}: {error}")
            continue
        try:
            scores[ask.id] = metric.update(item)
        except ItemError as error:
            try:
                scores[ask.id] = metric.update(item.without_prediction(str(error)))
            except ItemError as worse:  # the truth itself
                problems["unscorable"].append(f"{ask.id}: {worse}")
            else:
                problems["unfit"].append(f"{ask.id}: {error}")
    if isinstance(metric, CaptionScores):
        scores = metric.items()
    return Scored(
        metric=metric,
        numbers=metric.result(),
        expected=len(wanted),
        answered=sum("error" not in by_id[i] for i in found),
        problems=problems,
        notes=list(dict.fromkeys(str(note) for i in found for note in by_id[i].get("notes", ()))),
        lines=[by_id[i] | ({"scores": scores[i]} if i in scores else {}) for i in found],
    )


def _essence(line: Line) -> tuple[Any, ...]:
    """What makes two answers to one question different."""
    return tuple(line.get(name) for name in ("error", "text", "mask", "mask_tokens"))


def _asks(source: Source, wanted: set[str]) -> Iterator[tuple[Entry, Record | None, Ask]]:
    for entry in source.shards.index():
        if not any(ask.id in wanted for ask in entry.asks):
            continue
        try:
            record = source.shards[entry.index]
            asks = record.asks
        except (ValueError, OSError):
            record, asks = None, entry.asks
        yield from ((entry, record, ask) for ask in asks if ask.id in wanted)


def _item(
    source: Source,
    entry: Entry,
    record: Record | None,
    ask: Ask,
    line: Line | None,
    lost: str,
    folder: pathlib.Path,
    problems: Mapping[str, list[str]],
) -> Item:
    spec = source.spec
    mask = None
    if spec.needs_masks and ask.mask is not None:
        if record is None:
            raise ValueError("its record, which holds the true mask, cannot be read")
        mask = record.mask(ask.mask)
    value: Answer | Unparsed = Unparsed("", lost or "not answered")
    output = None
    if line is not None and "error" not in line:
        cut_off = line.get("tokens") if line.get("finished") is False else None
        value = understand(spec, line["text"], mask_tokens=line.get("mask_tokens"), cut_off_after=cut_off)
        if "value" in line and line["value"] != value.to_json():
            problems["edited"].append(ask.id)
        if spec.needs_masks and not isinstance(value, Unparsed) and "mask" in line:
            try:
                output, remark = read_mask(folder / line["mask"], semantic=spec.semantic)
            except MaskFileError as error:
                problems["unfit"].append(f"{ask.id}: {error}")
                value = Unparsed(line["text"], str(error))
            else:
                if remark:
                    problems["remarks"].append(f"{ask.id}: {remark}")
    return Item.from_row(
        spec.name, ask.row, value, id=ask.id, kind=kind_of(ask), video=ask.group or entry.clip_id, mask=mask,
        output=output,
    )  # fmt: skip
