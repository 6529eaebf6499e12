"""Predictions held against the items of a test set: what is missing, there twice, or belongs to none of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")
SHOWN = 5  # names in a message; the counts are always complete


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mismatch:
    """How a set of predictions differs from the items that were asked.

    Attributes:
        missing: items without a prediction.
        unexpected: predictions for no item of this test set.
        repeated: items with several equal predictions; one of them counts.
        contradictory: items with several different predictions; none of them counts.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    contradictory: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, complete."""
        return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        """One line: every count with the first few ids."""
        parts = []
        for name, ids in self.to_json().items():
            if ids:
                shown = ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
                parts.append(f"{len(ids)} {name} ({shown})")
        return "; ".join(parts) or "all items answered once"


def match(expected: Iterable[str], predictions: Iterable[tuple[str, T]]) -> tuple[dict[str, T], Mismatch]:
    """Pairs items with predictions.

    Args:
        expected: ids of the items, each once.
        predictions: id and prediction, in any order; predictions are compared by `==`.

    Returns:
        The predictions that count, in the order of `expected`, and everything else by name. Items that are missing or
        contradictory score as unparsed: `Item.without_prediction`.

    Raises:
        ValueError: an expected id occurs twice, so the reference itself is broken; or predictions were given and none
            of them belongs to an item, as when the reference is of another task.
    """
    wanted = list(expected)
    if len(set(wanted)) != len(wanted):
        seen: set[str] = set()
        twice = [i for i in wanted if i in seen or seen.add(i)]
        raise ValueError(f"expected each item of the test set once, found twice: {', '.join(twice[:SHOWN])}")
    found: dict[str, list[T]] = {}
    for item, prediction in predictions:
        found.setdefault(item, []).append(prediction)
    known = set(wanted)
    unexpected = tuple(i for i in found if i not in known)
    if found and wanted and len(unexpected) == len(found):
        raise ValueError(
            f"none of the {len(found)} predictions (the first is {unexpected[0]}) belongs to the {len(wanted)} items "
            f"of this test set (the first is {wanted[0]}); are they of the same task and split?"
        )
    several = [i for i in wanted if len(found.get(i, ())) > 1]
    contradictory = tuple(i for i in several if any(p != found[i][0] for p in found[i][1:]))
    counted = {i: found[i][0] for i in wanted if i in found and i not in set(contradictory)}
    mismatch = Mismatch(
        missing=tuple(i for i in wanted if i not in found),
        unexpected=unexpected,
        repeated=tuple(i for i in several if i not in set(contradictory)),
        contradictory=contradictory,
    )
    return counted, mismatch
