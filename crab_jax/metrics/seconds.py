"""Which event happens in which second, for audio-visual event localisation (AVE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crab_jax.metrics.state import Item, Metric, share
from crab_jax.tasks import Event, Events


def names_per_second(events: Sequence[Event], *, seconds: int, inclusive: bool = False) -> list[frozenset[str]]:
    """Names of the events in each of the first `seconds` seconds; the empty set is the background.

    Args:
        events: with whole seconds; what lies outside is cut off.
        seconds: length of a clip.
        inclusive: whether the second in which an event ends belongs to it, `[s, e]` instead of `[s, e)`.
    """
    names: list[set[str]] = [set() for _ in range(seconds)]
    for event in events:
        for second in range(max(event.start_s, 0), min(event.end_s + inclusive, seconds)):
            names[second].add(event.name)
    return [frozenset(n) for n in names]


class SegmentAccuracy(Metric):
    """Share of one-second segments with the right event, the background being one of the labels.

    A second is right if exactly the true events are named in it. AVE has one at a time; an answer that names two for
    one second contradicts itself and is wrong there.

    - `accuracy`: an event occupies `[s, e)`; an unparsed answer predicts background throughout.
    - `accuracy:inclusive`: it occupies `[s, e]`, in truth and prediction.
    - `accuracy:sibling`: convention (S) of a sibling project: inclusive, and every unparsed answer counts as ten right
      seconds.
    - `accuracy:unparsed_zero`: half-open, an unparsed answer has no second right.
    - `accuracy:unparsed_left_out`: half-open, among those parsed.
    - `event`: share of clips in which the events are named right, whatever their times.

    Source: specification 10.3; several events in one second are silent there.
    """

    headline = ("accuracy",)
    unparsed_as = "silence in every second"

    def __init__(self, *, seconds: int = 10):
        self._seconds = seconds
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """Length of a clip in seconds."""
        return {"seconds": self._seconds}

    def _zero(self) -> dict[str, Any]:
        none = {"items": 0, "half_open": 0, "inclusive": 0, "event": 0}
        return {"parsed": none, "unparsed": dict(none)}

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        truth = item.expect("truth", Events).events
        said = item.expect("prediction", Events).events if item.parsed else ()
        right = {}
        for name, inclusive in (("half_open", False), ("inclusive", True)):
            want, got = (names_per_second(e, seconds=self._seconds, inclusive=inclusive) for e in (truth, said))
            right[name] = sum(a == b for a, b in zip(want, got))
        event = int(item.parsed and {e.name for e in truth} == {e.name for e in said})
        scores = {
            "accuracy": share(right["half_open"], self._seconds),
            "accuracy:inclusive": share(right["inclusive"], self._seconds),
            "event": float(event),
        }
        return scores, {"parsed" if item.parsed else "unparsed": {"items": 1, "event": event} | right}

    def result(self) -> dict[str, float]:
        """See the class."""
        yes, no, n = self._sums["parsed"], self._sums["unparsed"], self._seconds
        items = yes["items"] + no["items"]
        return {
            "accuracy": share(yes["half_open"] + no["half_open"], n * items),
            "accuracy:inclusive": share(yes["inclusive"] + no["inclusive"], n * items),
            "accuracy:sibling": share(yes["inclusive"] + n * no["items"], n * items),
            "accuracy:unparsed_zero": share(yes["half_open"], n * items),
            "accuracy:unparsed_left_out": share(yes["half_open"], n * yes["items"]),
            "event": share(yes["event"], items),
            "unparsed": share(no["items"], items),
            "items": float(items),
        }
