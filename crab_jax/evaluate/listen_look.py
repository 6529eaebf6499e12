"""Does it listen, does it look? Each test set as it is, with other clips' sound, with other clips' pictures. No jax.

A task that needs both senses must fall to what one of them reaches, which stands beside it where it is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from crab_jax.evaluate import baselines
from crab_jax.evaluate.baselines import SENSES, Baseline
from crab_jax.evaluate.table import TestSet, with_unparsed

SWAPS = {None: "as it is", "sound": "other sound", "picture": "other pictures"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One line of the table.

    Attributes:
        task, split: which test set.
        number: the headline that is compared.
        lower_is_better: of this number.
        scores: key of `SWAPS` → value; None where that was not evaluated.
        unparsed: likewise, the share of answers that could not be understood.
        items: likewise, how many were to be answered.
        baseline: of the same number if there is one, else of the whole test set; None if unknown.
    """

    task: str
    split: str
    number: str
    lower_is_better: bool
    scores: dict[str | None, float | None]
    unparsed: dict[str | None, float | None]
    items: dict[str | None, int | None]
    baseline: Baseline | None

    @property
    def same_items(self) -> bool:
        """Whether all columns are about equally many items; they cannot be compared otherwise."""
        return len(set(self.items.values()) - {None}) == 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""

        def named(values: dict[str | None, Any]) -> dict[str, Any]:
            return {SWAPS[swap].replace(" ", "_"): value for swap, value in values.items()}

        base = None if self.baseline is None else {"measure": self.baseline.measure, **self.baseline.values}
        about = {"task": self.task, "split": self.split, "number": self.number, **named(self.scores)}
        return about | {"unparsed": named(self.unparsed), "items": named(self.items), "baseline": base}


def compare(sets: Sequence[TestSet], known: Sequence[Baseline]) -> list[Comparison]:
    """A line per test set that was also evaluated with swapped media, what the model says itself; empty without any.

    Args:
        sets: test sets with their runs.
        known: baselines.
    """
    lines = []
    for s in sets:
        runs = {swap: s.runs.get(("decoded", swap)) for swap in SWAPS}
        if runs["sound"] is None and runs["picture"] is None:
            continue
        name = s.main["headline"][0]
        mine = baselines.of(known, s.task, s.split)
        beside = [b for b in mine if b.number == name] or [b for b in mine if not b.part]
        numbers = {swap: {} if run is None else run["numbers"] for swap, run in runs.items()}
        lines.append(
            Comparison(
                task=s.task,
                split=s.split,
                number=name,
                lower_is_better=bool(s.main["lower_is_better"]),
                scores={swap: found.get(name) for swap, found in numbers.items()},
                unparsed={swap: found.get("unparsed") for swap, found in numbers.items()},
                items={swap: None if run is None else run["expected"] for swap, run in runs.items()},
                baseline=beside[0] if beside else None,
            )
        )
    return lines


def to_markdown(lines: Sequence[Comparison]) -> list[str]:
    """Lines of a section; none without comparisons."""
    if not lines:
        return []
    head = ["test set", "number", *SWAPS.values(), *SENSES.values(), "of"]
    shown = ["## Does it listen, does it look?", "", _row(head), _row(["---", "---", *["---:"] * 6, "---"])]
    for line in lines:
        values = [_cell(line, swap) for swap in SWAPS]
        base = line.baseline
        known = ["", "", "", ""] if base is None else [*(_value(base.values[s]) for s in SENSES), base.measure]
        better = " ↓" if line.lower_is_better else ""
        shown.append(_row([f"{line.task}/{line.split}", line.number + better, *values, *known]))
    told = "In brackets: the share of answers that could not be understood."
    if any(line.baseline for line in lines):
        told += " The last four columns know the true attributes of one sense; see `crab world --baselines`."
    return [*shown, "", told, ""]


def _cell(line: Comparison, swap: str | None) -> str:
    if line.items[swap] is None:
        return "–"
    shown = with_unparsed(_value(line.scores[swap]), line.unparsed[swap])
    return shown if line.same_items else f"{shown}, items: {line.items[swap]}"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
