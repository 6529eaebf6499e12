"""What every metric is: a sum over items that merges in any order and is divided once, at the end. No jax here.

Floating-point sums depend on their order, so scores are added as whole multiples of 2**-60 in Python's unbounded
integers. A score between 1/128 and 1 is represented exactly; every other one to 4e-19. Therefore any partition of the
items over hosts, in any order, ends in the identical state, and an interrupted evaluation in the identical table.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from crab_jax.tasks import TASKS, Answer, Row, Unparsed

ONE = 1 << 60  # the score 1 in a state


class ItemError(ValueError):
    """An item that cannot be scored as it is given: names the item, what was expected and what was found.

    It leaves the metric as it was. Whoever evaluates counts it, and may go on with `Item.without_prediction`.
    """


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One question with its true and its given answer.

    Attributes:
        id: unique in the test set; used in messages, and by the captions' state.
        truth: what counts as right, `TaskSpec.answer(row)`. The mask metrics do not read it.
        prediction: what the parser made of the model's text.
        kind: avqa, the type of the question from coarse to fine, for example `("Audio-Visual", "Counting")`.
        video: which items belong to one video, for the means over videos; empty if unknown.
        mask: the true mask. Binary: bool or 0/1 [H W]. Semantic: class ids [H W].
        output: the predicted mask. Binary: float logits [H W] before the sigmoid, or bool or 0/1 [H W]. Semantic: float
            logits [C H W], or class ids [H W]. Not read where the prediction is `Unparsed`.
        references: captions, further true captions beside `truth`.
    """

    id: str
    truth: Answer | None = None
    prediction: Answer | Unparsed
    kind: tuple[str, ...] = ()
    video: str = ""
    mask: np.ndarray | None = None
    output: np.ndarray | None = None
    references: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, task: str, row: Row, prediction: Answer | Unparsed, **rest: Any) -> Self:
        """The item for a row of a task; `rest` are the other attributes, `id` among them.

        Raises:
            KeyError: no such task.
            crab_jax.tasks.RowError: the row lacks its answer.
        """
        return cls(truth=TASKS[task].answer(row), prediction=prediction, **rest)

    def without_prediction(self, reason: str) -> Self:
        """The same item with nothing given as its answer: a missing or broken prediction counts as unparsed."""
        return dataclasses.replace(self, prediction=Unparsed("", reason), output=None)

    @property
    def parsed(self) -> bool:
        """Whether there is an answer to score."""
        return not isinstance(self.prediction, Unparsed)

    def expect(self, field: str, kind: type) -> Any:
        """`truth` or `prediction`, which has to be of this type.

        Raises:
            ItemError: it is of another type, as in a reference file of another task.
        """
        found = getattr(self, field)
        if not isinstance(found, kind):
            raise ItemError(
                f"item {self.id}: expected its {field} to be {kind.__name__}, found {type(found).__name__}; "
                "does it belong to this task?"
            )
        return found


# ------------------------------------------------------------------------------------------------------ exact sums


def fixed(score: float) -> int:
    """A finite score as a whole multiple of 2**-60."""
    return round(float(score) * ONE)


def fixed_array(scores: np.ndarray) -> np.ndarray:
    """As `fixed`, for an array of scores between -4 and 4; Python integers in an object array."""
    return np.rint(np.asarray(scores, np.float64) * ONE).astype(np.int64).astype(object)


def zeros(*shape: int) -> np.ndarray:
    """An array of sums of `fixed_array`."""
    return np.zeros(shape, np.int64).astype(object)


def mean(total: int, count: int) -> float:
    """The mean of `count` fixed scores, rounded once; NaN without any."""
    return total / (count * ONE) if count else math.nan


def share(part: int, whole: int) -> float:
    """`part / whole`; NaN if there is nothing."""
    return part / whole if whole else math.nan


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` in float64 with 0 where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole != 0)


def _add(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds nested sums in place; names that are new are taken over."""
    for name, value in more.items():
        if name not in into:
            into[name] = copy.deepcopy(value)
        elif isinstance(value, dict):
            _add(into[name], value)
        else:
            into[name] = into[name] + value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(value[k]) for k in sorted(value)}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _like(zero: Any, value: Any) -> Any:
    """JSON lists become arrays where the empty state has arrays; names that only items bring are kept as they are."""
    if isinstance(value, dict):
        known = zero if isinstance(zero, dict) else {}
        return {k: _like(known.get(k), v) for k, v in value.items()}
    if isinstance(zero, np.ndarray):
        array = np.asarray(value, dtype=zero.dtype)
        if array.shape != zero.shape:
            raise ValueError(f"expected sums of shape {zero.shape}, found {array.shape}")
        return array
    return value


# ---------------------------------------------------------------------------------------------------------- metrics


class Metric(abc.ABC):
    """Sums over items. `update` adds one, `merge` joins two, `result` divides.

    Names in a result: `/` narrows down to a part (`accuracy/audio/counting`), `:` names another convention for the same
    quantity (`miou:unparsed_left_out`). A name without `:` is the headline convention. Scores are fractions, not
    percentages; what nothing was counted for is NaN. Every result has `items` and the share `unparsed`.

    Attributes:
        headline: names of the numbers that stand in a table of one line per task.
        lower_is_better: whether a small headline is a good one.
        unparsed_as: what an answer that could not be understood counts as in the headline, for people.
    """

    headline: ClassVar[tuple[str, ...]]
    lower_is_better: ClassVar[bool] = False
    unparsed_as: ClassVar[str] = "wrong"

    def __init__(self):
        self._sums = self._zero()

    def settings(self) -> dict[str, Any]:
        """What two metrics must share to be merged; plain JSON types."""
        return {}

    @abc.abstractmethod
    def _zero(self) -> dict[str, Any]:
        """The sums of no items: nested dicts of integers and of integer arrays."""

    @abc.abstractmethod
    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        """Scores of one item, and what it adds to the sums. Changes nothing."""

    @abc.abstractmethod
    def result(self) -> dict[str, float]:
        """All named numbers; the same names whatever was counted, except for parts that only items name."""

    def score(self, item: Item) -> dict[str, float]:
        """The scores of one item alone, without counting it.

        Raises:
            ItemError: the item cannot be scored as it is given.
        """
        return self._measure(item)[0]

    def update(self, item: Item) -> dict[str, float]:
        """Counts one item and returns its scores.

        Raises:
            ItemError: the item cannot be scored as it is given; nothing is counted.
        """
        scores, sums = self._measure(item)
        _add(self._sums, sums)
        return scores

    def merge(self, other: Self) -> Self:
        """A new metric that has counted the items of both.

        Raises:
            ValueError: the other one is another metric, or has other settings.
        """
        if type(other) is not type(self) or other.settings() != self.settings():
            raise ValueError(
                f"cannot merge {type(self).__name__}{self.settings()} with {type(other).__name__}{other.settings()}"
            )
        merged = copy.deepcopy(self)
        _add(merged._sums, other._sums)
        return merged

    def to_json(self) -> dict[str, Any]:
        """The state in plain JSON types; equal for equal items, however they were partitioned and ordered.

        Sums of scores are integers beyond 2**53: Python reads them back exactly, a reader with floats only does not.
        """
        return {"metric": type(self).__name__, "settings": self.settings(), "sums": _plain(self._sums)}

    def from_json(self, state: Mapping[str, Any]) -> Self:
        """A new metric with the settings of this one and a saved state.

        Raises:
            ValueError: the state is of another metric, or has other settings, names or shapes.
        """
        found = (state.get("metric"), state.get("settings"))
        if found != (type(self).__name__, self.settings()):
            raise ValueError(
                f"expected the state of {type(self).__name__} with {self.settings()}, found {found[0]} with {found[1]}"
            )
        fresh = copy.deepcopy(self)
        zero = self._zero()
        if missing := zero.keys() - state["sums"].keys():
            raise ValueError(f"state of {type(self).__name__}: no sums called {sorted(missing)}")
        fresh._sums = _like(zero, state["sums"])
        return fresh
