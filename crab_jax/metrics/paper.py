"""Numbers that the paper reports, beside the names of ours. Fractions, as everywhere here."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reported:
    """A number of the paper's tables, LLaMA-2-7B variant.

    Attributes:
        task, split: what it was measured on.
        name: the entry of `Metric.result()` that comes nearest.
        value: a fraction.
        remark: what is not known about its convention; empty if nothing.
    """

    task: str
    split: str
    name: str
    value: float
    remark: str = ""


_AGGREGATE = "which of the five values, or which mean, is not stated"
_LEFT_OUT = "unparsed answers most probably left out, as the published evaluation does"

# Source: specification appendix E. S4 and captions are not reported in the sources at hand.
REPORTED = (
    Reported("ave", "test", "accuracy", 0.8015, "whether the end second counts is not stated"),
    Reported("avvp", "test", "segment/type", 0.5900, _AGGREGATE),
    Reported("avvp", "test", "event/type", 0.5444, _AGGREGATE),
    Reported("arig", "test", "ciou", 0.4178),
    Reported("arig", "test", "auc", 0.42),
    Reported("avqa", "test", "accuracy/audio", 0.7658),
    Reported("avqa", "test", "accuracy/visual", 0.9073),
    Reported("avqa", "test", "accuracy/audio_visual", 0.7413),
    Reported("avqa", "test", "accuracy", 0.7894),
    Reported("ms3", "test", "miou", 0.5821, _LEFT_OUT),
    Reported("ms3", "test", "f", 0.6624, _LEFT_OUT),
    Reported("avss", "test", "miou", 0.2652, "26.59 in another table; " + _LEFT_OUT),
    Reported("avss", "test", "f", 0.3210, _LEFT_OUT),
    Reported("ref-avs", "test_s", "miou", 0.4054, _LEFT_OUT),
    Reported("ref-avs", "test_s", "f", 0.58, _LEFT_OUT),
    Reported("ref-avs", "test_u", "miou", 0.4555, _LEFT_OUT),
    Reported("ref-avs", "test_n", "s", 0.01, _LEFT_OUT),
)


def reported(task: str, split: str) -> dict[str, Reported]:
    """What the paper says about a test set, by the name of our number; empty if nothing."""
    return {r.name: r for r in REPORTED if (r.task, r.split) == (task, split)}
