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
        scores = {"rouge_l": text.rouge_l(*split)}
        scores |= {f"bleu_{n}": b for n, b in enumerate(text.bleu(text.bleu_counts(*split)), 1)}
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
            | {f"bleu_{n}": b for n, b in enumerate(text.bleu(text.bleu_counts(said[i], true[i])), 1)}
            for i in said
        }

    def result(self) -> dict[str, float]:
        """See the class."""
        sentences = self._sums["sentences"]
        unparsed = sum(entry["said"] is None for entry in sentences.values())
        values = self._corpus("", *self._split())
        values |= self._corpus(":unparsed_left_out", *self._split(parsed_only=True))
        return values | {"unparsed": share(unparsed, len(sentences)), "items": float(len(sentences))}

    def _split(self, *, parsed_only: bool = False) -> tuple[dict[str, text.Words], dict[str, list[text.Words]]]:
        chosen = {i: e for i, e in sorted(self._sums["sentences"].items()) if not parsed_only or e["said"] is not None}
        said = {i: text.words(e["said"] or "") for i, e in chosen.items()}
        return said, {i: [text.words(t) for t in e["true"]] for i, e in chosen.items()}

    def _corpus(self, suffix: str, said: dict[str, text.Words], true: dict[str, list[text.Words]]) -> dict[str, float]:
        names = [*(f"bleu_{n}" for n in range(1, text.BLEU_ORDER + 1)), "rouge_l", "cider_d"]
        if not said:
            return {f"{name}{suffix}": math.nan for name in names}
        counts: dict[str, int] = {}
        for i in said:
            for name, count in text.bleu_counts(said[i], true[i]).items():
                counts[name] = counts.get(name, 0) + count
        rouge = mean(sum(fixed(text.rouge_l(said[i], true[i])) for i in said), len(said))
        cider = mean(sum(fixed(c) for c in text.cider_d(said, true).values()), len(said))
        return {f"{name}{suffix}": v for name, v in zip(names, [*text.bleu(counts), rouge, cider])}
