"""Metrics of the nine tasks: mergeable sums, NumPy only, usable on their own. No jax here.

    metric = metric_for("ave", "test")
    for ask, prediction in answers:
        metric.update(Item.from_row("ave", ask.row, prediction, id=ask.id))
    metric.result()  # {"accuracy": …, "accuracy:inclusive": …, "unparsed": …, …}

What each number means, and where conventions differ: docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crab_jax.metrics.avvp import VideoParsing, video_scores
from crab_jax.metrics.binary import BinaryMasks, NullMasks
from crab_jax.metrics.boxes import Grounding, box_iou, complete_iou
from crab_jax.metrics.captions import CaptionScores
from crab_jax.metrics.choice import ChoiceAccuracy
from crab_jax.metrics.masks import f_measure, mask_iou, null_s
from crab_jax.metrics.match import Mismatch, match
from crab_jax.metrics.paper import Reported, reported
from crab_jax.metrics.seconds import SegmentAccuracy
from crab_jax.metrics.semantic import SemanticMasks
from crab_jax.metrics.state import Item, ItemError, Metric
from crab_jax.metrics.text import bleu, cider_d, rouge_l

METRICS: Mapping[str, Callable[[], Metric]] = {
    "avqa": ChoiceAccuracy,
    "ave": SegmentAccuracy,
    "avvp": VideoParsing,
    "arig": Grounding,
    "s4": BinaryMasks,
    "ms3": BinaryMasks,
    "ref-avs": lambda: BinaryMasks(frames_per_video=10),
    "avss": SemanticMasks,
    "avcap": CaptionScores,
}
NULL_SPLIT = "test_n"  # the split of ref-avs whose expressions refer to nothing


def metric_for(task: str, split: str = "test") -> Metric:
    """A fresh metric for a test set.

    Raises:
        ValueError: there is no such task, or it has no metric.
    """
    if task == "ref-avs" and split == NULL_SPLIT:
        return NullMasks()
    if task not in METRICS:
        raise ValueError(f"no metric for {task!r}; there are {', '.join(METRICS)}")
    return METRICS[task]()


__all__ = [
    "METRICS",
    "BinaryMasks",
    "CaptionScores",
    "ChoiceAccuracy",
    "Grounding",
    "Item",
    "ItemError",
    "Metric",
    "Mismatch",
    "NullMasks",
    "Reported",
    "SegmentAccuracy",
    "SemanticMasks",
    "VideoParsing",
    "bleu",
    "box_iou",
    "cider_d",
    "complete_iou",
    "f_measure",
    "mask_iou",
    "match",
    "metric_for",
    "null_s",
    "reported",
    "rouge_l",
    "video_scores",
]
