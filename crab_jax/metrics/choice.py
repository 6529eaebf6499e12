"""Answers to questions: how many are right, by type of question (MUSIC-AVQA)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from crab_jax.metrics.state import Item, Metric, share
from crab_jax.tasks import Choice
from crab_jax.tasks.vocabulary import MUSIC_AVQA_ANSWERS

# Coarse type → fine types of MUSIC-AVQA.
QUESTION_TYPES = {
    "audio": ("counting", "comparative"),
    "visual": ("counting", "location"),
    "audio_visual": ("existential", "counting", "location", "comparative", "temporal"),
}
_COUNTS = ("items", "right", "unparsed", "substring_items", "substring_right")


def type_name(kind: Sequence[str]) -> str:
    """`("Audio-Visual", "Counting")` → `audio_visual/counting`; without a type, `other`."""
    return "/".join(re.sub(r"[\W_]+", "_", part.strip().casefold()) for part in kind) or "other"


class ChoiceAccuracy(Metric):
    """Share of questions answered right; averages are over questions, not over types.

    `accuracy`: the answer equals the true one, an unparsed answer is wrong. `accuracy:unparsed_left_out`: the same
    among those parsed. `accuracy:substring`: convention (S) of a sibling project, where the true answer has to occur
    somewhere in the given one, and answers that are unparsed or outside the vocabulary leave the denominator, which is
    `items:substring`. Each also as `…/audio`, `…/audio/counting` and so on, with its own `unparsed/…`.

    Source: specification 10.2.
    """

    headline = ("accuracy", "accuracy/audio", "accuracy/visual", "accuracy/audio_visual")

    def __init__(self, *, vocabulary: Sequence[str] = MUSIC_AVQA_ANSWERS):
        self._vocabulary = frozenset(vocabulary)
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """The vocabulary of the variant (S)."""
        return {"vocabulary": sorted(self._vocabulary)}

    def _zero(self) -> dict[str, Any]:
        names = [f"{coarse}/{fine}" for coarse, fines in QUESTION_TYPES.items() for fine in fines]
        return {name: dict.fromkeys(_COUNTS, 0) for name in names}

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        truth = item.expect("truth", Choice).answer.strip().lower()
        counts = dict.fromkeys(_COUNTS, 0) | {"items": 1}
        if not item.parsed:
            counts["unparsed"] = 1
        else:
            said = item.expect("prediction", Choice).answer.strip().lower()
            counts["right"] = int(said == truth)
            if said in self._vocabulary:
                counts["substring_items"] = 1
                counts["substring_right"] = int(truth in said)
        return {"accuracy": float(counts["right"])}, {type_name(item.kind): counts}

    def result(self) -> dict[str, float]:
        """See the class; the types of MUSIC-AVQA are always there, others where there were such questions."""
        parts = {""} | {"/".join(name.split("/")[:n]) for name in self._sums for n in (1, 2)} | set(self._sums)
        values = {}
        for part in sorted(parts):
            chosen = [c for name, c in self._sums.items() if not part or name == part or name.startswith(f"{part}/")]
            c = {k: sum(counts[k] for counts in chosen) for k in _COUNTS}
            at = f"/{part}" if part else ""
            values |= {
                f"accuracy{at}": share(c["right"], c["items"]),
                f"accuracy{at}:unparsed_left_out": share(c["right"], c["items"] - c["unparsed"]),
                f"accuracy{at}:substring": share(c["substring_right"], c["substring_items"]),
                f"unparsed{at}": share(c["unparsed"], c["items"]),
                f"items{at}": float(c["items"]),
                f"items{at}:substring": float(c["substring_items"]),
            }
        return values
