"""Scores of sentences against true sentences: BLEU, ROUGE-L and CIDEr-D. Plain Python, no Java.

METEOR is left out: it needs WordNet and a table of paraphrases, which would have to be downloaded.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Mapping, Sequence

Words = tuple[str, ...]

BLEU_ORDER = 4
CIDER_ORDER = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2

# What the Penn Treebank splits off a word: don't → do n't, dog's → dog 's, cannot → can not.
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_CANNOT = re.compile(r"\bcan(?=not\b)")
# A word: letters and digits with what joins them inside (well-known, 3.5, o'clock, at&t), or a split-off contraction.
_WORD = re.compile(r"n't(?!\w)|'(?:s|m|d|re|ve|ll)(?!\w)|[^\W_]+(?:['&.,/_-]+[^\W_]+)*")
_NUMBER = re.compile(r"\d[\d.,/-]*\d|\d")


def words(text: str) -> Words:
    """The words of a sentence in lower case, without punctuation, much as the Penn Treebank divides them.

    Contractions and possessives are words of their own (`do n't`, `dog 's`). Hyphens, dots and commas stay inside a
    word or number, and commas and dots between words divide them. Typographic apostrophes count as plain ones. COCO's
    tokenizer, a Java program, does the same on ordinary captions; it differs on abbreviations, emoticons and URLs.
    """
    text = text.lower().replace("\u2019", "'")
    text = _CANNOT.sub("can ", _CONTRACTION.sub(r" \1", text))
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match[0]
        if "." in word or "," in word or "/" in word:
            found.extend([word] if _NUMBER.fullmatch(word) else [w for w in re.split(r"[.,/]+", word) if w])
        else:
            found.append(word)
    return tuple(found)


def ngrams(sentence: Words, order: int) -> collections.Counter[Words]:
    """How often each run of `order` words occurs."""
    return collections.Counter(zip(*(sentence[i:] for i in range(order))))


# ------------------------------------------------------------------------------------------------------------- BLEU


def bleu_counts(said: Words, true: Sequence[Words]) -> dict[str, int]:
    """What one sentence adds to corpus BLEU.

    Returns:
        `length` and `closest`, the length of the true sentence nearest to it (the shorter of two); for n = 1 … 4 the
        number of n-grams `total{n}`, and of those `match{n}` that a true sentence has as often.
    """
    closest = min((abs(len(t) - len(said)), len(t)) for t in true)[1]
    counts = {"length": len(said), "closest": closest}
    for n in range(1, BLEU_ORDER + 1):
        most: collections.Counter[Words] = collections.Counter()
        for t in true:
            most |= ngrams(t, n)
        counts[f"total{n}"] = max(len(said) - n + 1, 0)
        counts[f"match{n}"] = sum((ngrams(said, n) & most).values())
    return counts


def bleu(counts: Mapping[str, int]) -> list[float]:
    """BLEU-1 … BLEU-4 of summed counts: brevity penalty times the geometric mean of the precisions, without smoothing.

    Source: Papineni et al., "BLEU" (ACL 2002).
    """
    if not counts["length"]:
        return [0.0] * BLEU_ORDER
    brevity = min(1.0, math.exp(1 - counts["closest"] / counts["length"]))
    scores, logs = [], 0.0
    for n in range(1, BLEU_ORDER + 1):
        if not counts[f"match{n}"]:
            return scores + [0.0] * (BLEU_ORDER - len(scores))
        logs += math.log(counts[f"match{n}"] / counts[f"total{n}"])
        scores.append(brevity * math.exp(logs / n))
    return scores


# ---------------------------------------------------------------------------------------------------------- ROUGE-L


def common_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0  # row[j - 1] of the line above
        for j, other in enumerate(b, 1):
            here = row[j]
            row[j] = before + 1 if word == other else max(row[j], row[j - 1])
            before = here
    return row[-1]


def rouge_l(said: Words, true: Sequence[Words]) -> float:
    """F of the longest common subsequence, beta 1.2; precision and recall are each the best over the true sentences.

    Source: Lin, "ROUGE" (2004), with the choices of the COCO caption evaluation.
    """
    if not said:
        return 0.0
    common = [common_length(said, t) for t in true]
    precision = max(common) / len(said)
    recall = max(c / len(t) if t else 0.0 for c, t in zip(common, true))
    if not precision or not recall:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


# ---------------------------------------------------------------------------------------------------------- CIDEr-D


def cider_d(said: Mapping[str, Words], true: Mapping[str, Sequence[Words]]) -> dict[str, float]:
    """CIDEr-D of every item, between 0 and 10.

    N-grams (n = 1 … 4) are weighted by how rare they are over the items: log(items / items in whose true sentences it
    occurs). So the score of an item depends on the whole test set, and with a single item every weight, and the score,
    is 0.

    Args:
        said: item → the given sentence.
        true: the same items → their true sentences, at least one each.

    Source: Vedantam et al., "CIDEr" (CVPR 2015), with the clipping and the Gaussian length penalty (sigma 6) of its
    variant D.
    """
    frequency: collections.Counter[Words] = collections.Counter()
    for sentences in true.values():
        frequency.update({g for t in sentences for n in range(1, CIDER_ORDER + 1) for g in ngrams(t, n)})
    unseen = math.log(max(len(true), 1))  # as rare as what occurs in one item
    rarity = {g: unseen - math.log(count) for g, count in frequency.items()}

    def vector(sentence: Words, n: int) -> tuple[dict[Words, float], float]:
        weights = {g: count * rarity.get(g, unseen) for g, count in ngrams(sentence, n).items()}
        return weights, math.sqrt(math.fsum(w * w for w in weights.values()))

    scores = {}
    for item, sentence in said.items():
        total = 0.0
        for n in range(1, CIDER_ORDER + 1):
            mine, my_norm = vector(sentence, n)
            for t in true[item]:
                other, other_norm = vector(t, n)
                if my_norm and other_norm:
                    product = math.fsum(min(w, other[g]) * other[g] for g, w in mine.items() if g in other)
                    penalty = math.exp(-((len(sentence) - len(t)) ** 2) / (2 * CIDER_SIGMA**2))
                    total += product / (my_norm * other_norm) * penalty
        scores[item] = 10.0 * total / (CIDER_ORDER * len(true[item]))
    return scores
