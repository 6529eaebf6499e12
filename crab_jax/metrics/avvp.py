"""Audio-visual video parsing: F scores per second and per event, for what is heard, seen, and both (LLP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crab_jax.metrics.state import Item, ItemError, Metric, fixed, mean, ratio, share
from crab_jax.tasks import AudioVisualEvents, Event
from crab_jax.tasks.vocabulary import AVVP_EVENTS

STREAMS = ("audio", "visual", "audio_visual", "event")  # `event`: audio and visual counted together
LEVELS = ("segment", "event")


def activity(events: Sequence[Event], *, classes: Sequence[str] = AVVP_EVENTS, seconds: int = 10) -> np.ndarray:
    """Which class happens in which second.

    Args:
        events: each fills the seconds `[start_s, end_s)`; what lies outside is cut off.
        classes: names in the order of the rows.
        seconds: length of a clip.

    Returns:
        bool [C T].

    Raises:
        ValueError: an event that is not among the classes.
    """
    active = np.zeros((len(classes), seconds), bool)
    for event in events:
        if event.name not in classes:
            raise ValueError(f"event {event.name!r} is not among the {len(classes)} classes")
        active[classes.index(event.name), max(event.start_s, 0) : max(event.end_s, 0)] = True
    return active


def runs(active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximal runs of ones: class, first second and the second behind the last, each int [N]; `active` bool [C T]."""
    edges = np.diff(np.pad(active.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(edges == 1)  # both in the order of rows, then time, so they pair up
    _, end = np.nonzero(edges == -1)
    return row, start, end


def segment_counts(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True positive, false positive and false negative seconds per class; bool [C T] each → int [3 C]."""
    return np.stack([(predicted & true).sum(1), (predicted & ~true).sum(1), (~predicted & true).sum(1)])


def event_counts(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True positive, false positive and false negative events per class; bool [C T] each → int [3 C].

    An event is a maximal run. A predicted one is a true positive if it covers at least half of its union with some true
    event of its class; a true one that no predicted event covers so is a false negative.
    """
    classes = len(predicted)
    row_p, start_p, end_p = (a[:, None] for a in runs(predicted))
    row_t, start_t, end_t = (a[None, :] for a in runs(true))
    inter = np.clip(np.minimum(end_p, end_t) - np.maximum(start_p, start_t), 0, None)
    union = (end_p - start_p) + (end_t - start_t) - inter
    match = (row_p == row_t) & (2 * inter >= union)
    hit, found = match.any(1), match.any(0)

    def count(rows: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.bincount(rows.ravel()[where], minlength=classes)

    return np.stack([count(row_p, hit), count(row_p, ~hit), count(row_t, ~found)])


def mean_f(counts: np.ndarray) -> float:
    """Mean of 2 TP / (2 TP + FP + FN) over the classes that occur at all; 1 if none does. `counts` int [3 C]."""
    tp, fp, fn = counts
    occurs = (tp + fp + fn) > 0
    return float(np.mean(2 * tp[occurs] / (2 * tp + fp + fn)[occurs])) if occurs.any() else 1.0


def video_scores(
    predicted_audio: np.ndarray, predicted_visual: np.ndarray, true_audio: np.ndarray, true_visual: np.ndarray
) -> dict[str, float]:
    """F scores of one video; bool [C T] each.

    What is both heard and seen is the product of the two. In `…/event` the counts of audio and visual are added per
    class before F is taken.

    Returns:
        `segment/audio`, `segment/visual`, `segment/audio_visual`, `segment/event`, and the same as `event/…`.

    Source: specification 10.4.
    """
    scores = {}
    for level, counts in (("segment", segment_counts), ("event", event_counts)):
        audio = counts(predicted_audio, true_audio)
        visual = counts(predicted_visual, true_visual)
        both = counts(predicted_audio & predicted_visual, true_audio & true_visual)
        for stream, c in zip(STREAMS, (audio, visual, both, audio + visual)):
            scores[f"{level}/{stream}"] = mean_f(c)
    return scores


def _with_aggregates(scores: dict[str, float]) -> dict[str, float]:
    """Adds Type (mean of audio, visual and audio-visual) and the mean of all five."""
    values = {}
    for level in LEVELS:
        four = {s: scores[f"{level}/{s}"] for s in STREAMS}
        four["type"] = (four["audio"] + four["visual"] + four["audio_visual"]) / 3
        four["mean"] = sum(four.values()) / 5
        values |= {f"{level}/{name}": value for name, value in four.items()}
    return values


class VideoParsing(Metric):
    """Mean over videos of the F scores of `video_scores`, at the level of segments (seconds) and of events.

    `segment/type` is Type@AV, `segment/event` is Event@AV, `segment/mean` the mean of all five; the same as `event/…`.
    Headline: an unparsed answer scores 0. `:unparsed_empty`: it predicts no event, which is right where there is none.
    `:unparsed_left_out`: the mean is over the videos with an answer.

    Source: specification 10.4; unparsed answers are silent there.
    """

    headline = ("segment/type", "event/type", "segment/event", "event/event")

    def __init__(self, *, classes: Sequence[str] = AVVP_EVENTS, seconds: int = 10):
        self._classes, self._seconds = tuple(classes), seconds
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """The classes, and the length of a clip in seconds."""
        return {"classes": list(self._classes), "seconds": self._seconds}

    def _zero(self) -> dict[str, Any]:
        none = dict.fromkeys([f"{level}/{s}" for level in LEVELS for s in STREAMS], 0)
        return {"parsed": {"items": 0} | none, "unparsed": {"items": 0} | none}

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        truth = item.expect("truth", AudioVisualEvents)
        said = item.expect("prediction", AudioVisualEvents) if item.parsed else AudioVisualEvents((), ())
        try:
            matrices = [
                activity(events, classes=self._classes, seconds=self._seconds)
                for events in (said.audio, said.visual, truth.audio, truth.visual)
            ]
        except ValueError as error:
            raise ItemError(f"item {item.id}: {error}") from error
        scores = video_scores(*matrices)
        sums = {"items": 1} | {name: fixed(score) for name, score in scores.items()}
        shown = _with_aggregates(scores if item.parsed else dict.fromkeys(scores, 0.0))
        return shown, {"parsed" if item.parsed else "unparsed": sums}

    def result(self) -> dict[str, float]:
        """See the class."""
        yes, no = self._sums["parsed"], self._sums["unparsed"]
        items = yes["items"] + no["items"]
        names = [name for name in yes if name != "items"]
        conventions = {
            "": {name: mean(yes[name], items) for name in names},
            ":unparsed_empty": {name: mean(yes[name] + no[name], items) for name in names},
            ":unparsed_left_out": {name: mean(yes[name], yes["items"]) for name in names},
        }
        values = {
            f"{name}{suffix}": value
            for suffix, scores in conventions.items()
            for name, value in _with_aggregates(scores).items()
        }
        return values | {"unparsed": share(no["items"], items), "items": float(items)}


def precision_recall_f1(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 per class, each averaged over the classes for which it is defined; bool [C T] each.

    Not part of the benchmark's numbers; the reference carries it beside them.
    """
    tp, fp, fn = segment_counts(predicted, true)
    means = []
    for part, whole in ((tp, tp + fp), (tp, tp + fn), (2 * tp, 2 * tp + fp + fn)):
        values = ratio(part, whole)[whole > 0]
        means.append(float(values.mean()) if values.size else 1.0)
    return means[0], means[1], means[2]
