"""Captions over a test set: BLEU, ROUGE-L and CIDEr-D (VALOR-32K, and the caption stages of pre-training)."""

from __future__ import annotations

import math
from typing import Any, Self

from crab_jax.metrics import text
from crab_jax.metrics.state import Item, ItemError, Metric, fixed, mean, share
from crab_jax.tasks import Caption


class CaptionScores(Metric):
    """Corpus BLEU-1 … BLEU-4, mean ROUGE-L and mean CIDEr-D. An unparsed answer counts as an empty sentence.

    CIDEr-D weighs words by how rare they are in the whole test set, so it is no sum over items: the state keeps the
    sentences, which merge as long as no item comes twice. `:unparsed_left_out`: over the items with a caption, rarities
    included.

    `cider_d` is between 0 and 10; papers print it times 100 or times 10. METEOR is left out, see `text`.

    Source: specification 10.9 asks for these without fixing a tokenizer; see `text.words`.
    """

    headline = ("cider_d", "bleu_4", "rouge_l")
    unparsed_as = "an empty sentence"

    def _zero(self) -> dict[str, Any]:
        return {"sentences": {}}

    def _measure(self, item: Item) -> tuple[dict[str, float], dict[str, Any]]:
        if item.id in self._sums["sentences"]:
            raise ItemError(f"item {item.id}: expected each item once, it has been counted before")
        true = [item.expect("truth", Caption).text, *item.references]
        said = item.expect("prediction", Caption).text if item.parsed else None
        split = text.words(said or ""), [text.words(t) for t in true]
        if not any(split[1]):
            raise ItemError(f"item {item.id}: expected a true caption with words, found {true}")
        scores = {"rouge_l": text.rouge_l(*split)} | _bleu(text.bleu_counts(*split))
        return scores, {"sentences": {item.id: {"said": said, "true": true}}}

    def merge(self, other: Self) -> Self:
        """As for every metric.

        Raises:
            ValueError: both have counted the same item, or the other one is another metric.
        """
        if type(other) is type(self) and (twice := self._sums["sentences"].keys() & other._sums["sentences"].keys()):
            raise ValueError(f"cannot merge captions: {len(twice)} items in both, the first is {min(twice)}")
        return super().merge(other)

    def items(self) -> dict[str, dict[str, float]]:
        """The scores of each item, among them `cider_d`, which needs all others to be known."""
        said, true = self._split()
        cider = text.cider_d(said, true)
        return {
            i: {"cider_d": cider[i], "rouge_l": text.rouge_l(said[i], true[i])}
            | _bleu(text.bleu_counts(said[i], true[i]))
            for i in said
        }

    def result(self) -> dict[str, float]:
        """See the class."""
        said, true = self._split()
        unparsed = {i for i, entry in self._sums["sentences"].items() if entry["said"] is None}
        bleu = {i: text.bleu_counts(said[i], true[i]) for i in said}
        rouge = {i: fixed(text.rouge_l(said[i], true[i])) for i in said}
        cider = text.cider_d(said, true)
        values = {}
        for suffix, chosen in (("", list(said)), (":unparsed_left_out", [i for i in said if i not in unparsed])):
            if len(chosen) < len(said):  # what is rare among fewer items is another matter
                cider = text.cider_d({i: said[i] for i in chosen}, {i: true[i] for i in chosen})
            counts = {name: sum(bleu[i][name] for i in chosen) for name in text.bleu_counts((), [()])}
            scores = _bleu(counts) | {
                "rouge_l": mean(sum(rouge[i] for i in chosen), len(chosen)),
                "cider_d": mean(sum(fixed(cider[i]) for i in chosen), len(chosen)),
            }
            values |= {f"{name}{suffix}": score if chosen else math.nan for name, score in scores.items()}
        return values | {"unparsed": share(len(unparsed), len(said)), "items": float(len(said))}

    def _split(self) -> tuple[dict[str, text.Words], dict[str, list[text.Words]]]:
        """Given and true sentences in words, sorted by item so that the order of updates does not matter."""
        entries = sorted(self._sums["sentences"].items())
        said = {i: text.words(e["said"] or "") for i, e in entries}
        return said, {i: [text.words(t) for t in e["true"]] for i, e in entries}


def _bleu(counts: dict[str, int]) -> dict[str, float]:
    return {f"bleu_{n}": score for n, score in enumerate(text.bleu(counts), 1)}
