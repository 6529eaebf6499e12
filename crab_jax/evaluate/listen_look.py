"""Does it listen, does it look? Each test set as it is, with other clips' sound, with other clips' pictures. No jax.

A task that needs both senses must fall to what one of them reaches, which stands beside it where it is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from crab_jax.evaluate import baselines
from crab_jax.evaluate.baselines import SENSES, Baseline
from crab_jax.evaluate.table import TestSet

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
        baseline: of the test set; None if unknown.
    """

    task: str
    split: str
    number: str
    lower_is_better: bool
    scores: dict[str | None, float | None]
    unparsed: dict[str | None, float | None]
    baseline: Baseline | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        named = {SWAPS[swap].replace(" ", "_"): value for swap, value in self.scores.items()}
        base = None if self.baseline is None else {"measure": self.baseline.measure, **self.baseline.values}
        return {"task": self.task, "split": self.split, "number": self.number, **named, "baseline": base}


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
        whole = [b for b in baselines.of(known, s.task, s.split) if not b.part]
        name = s.main["headline"][0]
        numbers = {swap: {} if run is None else run["numbers"] for swap, run in runs.items()}
        lines.append(
            Comparison(
                task=s.task,
                split=s.split,
                number=name,
                lower_is_better=bool(s.main["lower_is_better"]),
                scores={swap: found.get(name) for swap, found in numbers.items()},
                unparsed={swap: found.get("unparsed") for swap, found in numbers.items()},
                baseline=whole[0] if whole else None,
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
        values = [_value(v) for v in line.scores.values()]
        base = line.baseline
        known = ["", "", "", ""] if base is None else [*(_value(base.values[s]) for s in SENSES), base.measure]
        better = " ↓" if line.lower_is_better else ""
        shown.append(_row([f"{line.task}/{line.split}", line.number + better, *values, *known]))
    told = "The last four columns know the true attributes of one sense; see `crab world --baselines`."
    return [*shown, "", told, ""] if any(line.baseline for line in lines) else [*shown, ""]


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
