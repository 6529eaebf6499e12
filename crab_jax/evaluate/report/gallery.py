"""Which answers are shown: right and wrong ones, spread evenly over the test set, never chosen by hand."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from crab_jax.evaluate.journal import Line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """When an item counts as right on the page.

    Attributes:
        score: name of the item's score.
        least: right from here on; None: the better half.
        said: the rule in words.
        falls: a small score is a good one.
    """

    score: str
    least: float | None
    said: str
    falls: bool = False


_SEGMENTED = Rule(score="iou", least=0.5, said="the mask overlaps the true one with an IoU of at least 0.5")
_RULES: Mapping[str, Rule] = {
    "avqa": Rule(score="accuracy", least=1.0, said="the answer is the true one"),
    "ave": Rule(score="accuracy", least=0.8, said="at least eight of ten seconds are right"),
    "avvp": Rule(score="segment/type", least=0.75, said="Type, per second, is at least 0.75"),
    "arig": Rule(score="iou", least=0.5, said="the box overlaps the true one with an IoU of at least 0.5"),
    "s4": _SEGMENTED,
    "ms3": _SEGMENTED,
    "ref-avs": _SEGMENTED,
    "avss": Rule(score="miou", least=0.5, said="the mean IoU over the classes of the picture is at least 0.5"),
    "avcap": Rule(score="cider_d", least=None, said="CIDEr-D is in the better half of this test set"),
}
_NULL = Rule(
    score="s", least=0.1, falls=True, said="S, the root of the share of the picture that is marked, is at most 0.1"
)


def rule_of(task: str, split: str) -> Rule:
    """When an item of a test set counts as right."""
    return _NULL if (task, split) == ("ref-avs", "test_n") else _RULES[task]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """An answer and what the page calls it.

    Attributes:
        line: of the file of answers.
        verdict: "right", "wrong" or "unparsed".
        score: by the rule of its task.
    """

    line: Line
    verdict: str
    score: float


def judge(task: str, split: str, lines: Sequence[Line]) -> list[Judged]:
    """Verdicts on all answers that have a score, in their order. Items that failed are not among them."""
    rule = rule_of(task, split)
    scored = []
    for line in lines:
        scores = line.get("scores")
        value = scores.get(rule.score) if isinstance(scores, dict) else None
        if "text" in line and isinstance(value, (int, float)):
            scored.append((line, float(value)))
    least = rule.least
    if least is None and scored:
        least = statistics.median(value for _, value in scored)
    judged = []
    for line, value in scored:
        right = value <= least if rule.falls else value >= least and (rule.least is not None or value > 0)
        unparsed = isinstance(line.get("value"), dict) and line["value"].get("kind") == "unparsed"
        verdict = "unparsed" if unparsed else "right" if right else "wrong"
        judged.append(Judged(line=line, verdict=verdict, score=value))
    return judged


def choose(judged: Sequence[Judged], count: int) -> list[Judged]:
    """At most `count` right ones and as many that are not, those not understood among them; evenly spread."""
    right = [j for j in judged if j.verdict == "right"]
    return [*_spread(right, count), *_spread([j for j in judged if j.verdict != "right"], count)]


def _spread(items: Sequence[Judged], count: int) -> list[Judged]:
    count = min(count, len(items))
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]
