"""Captions by hand: words, BLEU, ROUGE-L, CIDEr-D."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crab_jax.metrics import CaptionScores, Item, ItemError, bleu, cider_d, rouge_l, text
from crab_jax.metrics.text import bleu_counts, common_length, words
from crab_jax.tasks import Caption, Unparsed

NOTHING = Unparsed("", "no text")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A man, playing the Guitar!", "a man playing the guitar"),
        ("He doesn't; it's the dog's bowl", "he does n't it 's the dog 's bowl"),
        ("They\u2019re here, I can't, you cannot", "they 're here i ca n't you can not"),
        ("a well-known 3.5 minute song (in 1,000 halls)...", "a well-known 3.5 minute song in 1,000 halls"),
        ("one.two", "one two"),
        ("rock'n'roll at 5 o'clock", "rock'n'roll at 5 o'clock"),
        ("ein Geräusch 狗", "ein geräusch 狗"),
        ("... ! '", ""),
    ],
)
def test_words(sentence, expected):
    assert " ".join(words(sentence)) == expected


@given(st.text(max_size=200))
def test_any_text_has_words(sentence):
    """No string fails, and words survive being joined and split again."""
    found = words(sentence)
    assert all(w and not w.isspace() for w in found)


# ------------------------------------------------------------------------------------------------------------- BLEU


def test_repetition_does_not_help():
    """The example of the BLEU paper: "the" counts twice, as often as it is true."""
    counts = bleu_counts(words("the the the the the the the"), [words("the cat is on the mat")])
    assert (counts["match1"], counts["total1"]) == (2, 7)
    assert bleu(counts) == pytest.approx([2 / 7, 0, 0, 0])


def test_true_sentences_do_not_add_up():
    """A word that is true once in each of two sentences is true once, not twice."""
    assert bleu_counts(words("dogs dogs"), [words("dogs bark"), words("two dogs")])["match1"] == 1


def test_bleu_with_two_references_by_hand():
    """Unigrams 4 of 4, pairs 2 of 3, threes 1 of 2, no four; one word shorter than the nearest reference."""
    said, true = (
        words("a dog barks loudly"),
        [words("a dog barks at someone"), words("one dog is heard barking loudly")],
    )
    counts = bleu_counts(said, true)
    assert [counts[f"match{n}"] for n in range(1, 5)] == [4, 2, 1, 0]
    assert counts["closest"] == 5
    penalty = math.exp(1 - 5 / 4)
    assert bleu(counts) == pytest.approx([penalty, penalty * (2 / 3) ** 0.5, penalty * (1 / 3) ** (1 / 3), 0])


def test_bleu_of_an_equal_sentence_and_of_none():
    same = words("a dog barks at a car")
    assert bleu(bleu_counts(same, [same])) == [1, 1, 1, 1]
    assert bleu(bleu_counts((), [same])) == [0, 0, 0, 0]


# ---------------------------------------------------------------------------------------------------------- ROUGE-L


def test_rouge_by_hand():
    """Three of three words in order, three of six found."""
    said, true = words("the cat sat"), words("the cat on the mat sat")
    assert common_length(said, true) == 3
    assert rouge_l(said, [true]) == pytest.approx((1 + 1.44) * 1 * 0.5 / (0.5 + 1.44 * 1))
    assert rouge_l(true, [true]) == pytest.approx(1)
    assert rouge_l((), [true]) == rouge_l(words("dogs"), [true]) == 0


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_common_subsequence_against_all_subsequences(a, b):
    def subsequences(x):
        return {tuple(c for i, c in enumerate(x) if bits >> i & 1) for bits in range(2 ** len(x))}

    assert common_length(tuple(a), tuple(b)) == max(map(len, subsequences(a) & subsequences(b)))


# ---------------------------------------------------------------------------------------------------------- CIDEr-D


def test_cider_by_hand():
    """Two items. "a" is in both and weighs nothing; three words have no run of four."""
    true = {"1": [words("a dog barks")], "2": [words("a cat meows")]}
    assert cider_d({"1": true["1"][0], "2": words("a dog barks")}, true) == pytest.approx({"1": 7.5, "2": 0})
    # "cat" of two weighted words, "a cat" of two pairs, no three: cosines 1/2, 1/2, 0, 0.
    assert cider_d({"2": words("a cat runs"), "1": ()}, true) == pytest.approx({"2": 2.5, "1": 0})


def test_cider_length_and_clipping():
    """A repeated word is clipped to the true count, and each word more costs exp(-d² / 72)."""
    true = {"1": [words("dog")], "2": [words("cat")]}
    twice = cider_d({"1": words("dog dog"), "2": ()}, true)["1"]
    # One run of one word: cosine of 2 w clipped to w against w is 1/2.
    assert twice == pytest.approx(10 / 4 * 0.5 * math.exp(-1 / 72))


def test_cider_of_several_references_is_their_mean():
    said = words("a dog barks at cars")
    other = {"2": [words("birds sing in tall trees")]}
    one = cider_d({"1": said}, {"1": [said]} | other)["1"]
    two = cider_d({"1": said}, {"1": [said, words("music plays all night long")]} | other)["1"]
    assert one == pytest.approx(10)
    assert two == pytest.approx(5)


def test_a_single_item_has_no_rare_words():
    same = words("a dog barks at cars")
    assert cider_d({"1": same}, {"1": [same]}) == {"1": 0}
    assert cider_d({}, {}) == {}


# ------------------------------------------------------------------------------------------------------------ a set


def item(name, true, said, *more):
    prediction = Caption(said) if said is not None else NOTHING
    return Item(id=name, truth=Caption(true), prediction=prediction, references=more)


def counted(*items):
    metric = CaptionScores()
    for i in items:
        metric.update(i)
    return metric


def test_a_set_of_captions():
    """Right ones score full marks; an unparsed one counts as silence."""
    right = [
        item("a", "A dog barks at a car.", "a dog barks at a car"),
        item("b", "Birds sing in a tree", "birds sing in a tree"),
    ]
    r = counted(*right).result()
    assert [r[n] for n in ("bleu_1", "bleu_4", "rouge_l", "cider_d")] == pytest.approx([1, 1, 1, 10])
    r = counted(*right, item("c", "It is quiet here now", None)).result()
    assert r["rouge_l"] == pytest.approx(2 / 3)
    assert r["cider_d"] == pytest.approx(20 / 3)
    assert r["bleu_1"] == pytest.approx(math.exp(1 - 16 / 11))  # 11 words said where 16 are true
    assert r["rouge_l:unparsed_left_out"] == pytest.approx(1)
    assert r["cider_d:unparsed_left_out"] == pytest.approx(10)
    assert r["unparsed"] == pytest.approx(1 / 3)
    # A word of the item that is left out becomes rarer among the others.
    some = [item("a", "dogs bark", "dogs sleep"), item("b", "cats", "cats"), item("c", "birds", "birds")]
    less = counted(*some, item("d", "dogs sleep", None)).result()["cider_d:unparsed_left_out"]
    assert less == pytest.approx(counted(*some).result()["cider_d"])


def test_scores_of_items_average_to_those_of_the_set():
    metric = counted(item("a", "A dog barks at a car.", "the dog barks"), item("b", "Birds sing", "birds are singing"))
    own, r = metric.items(), metric.result()
    for name in ("rouge_l", "cider_d"):
        assert sum(scores[name] for scores in own.values()) / 2 == pytest.approx(r[name])


def test_bleu_of_a_set_is_pooled():
    """It is not the mean over sentences: 1 of 1 and 1 of 3 words make 2 of 4."""
    r = counted(item("a", "dogs", "dogs"), item("b", "a cat meows", "birds sing meows")).result()
    assert r["bleu_1"] == pytest.approx(2 / 4)


def test_an_item_counts_once():
    metric = counted(item("a", "dogs", "dogs"))
    with pytest.raises(ItemError, match="item a: expected each item once"):
        metric.update(item("a", "dogs", "cats"))
    with pytest.raises(ValueError, match="1 items in both, the first is a"):
        metric.merge(counted(item("a", "dogs", "dogs")))
    with pytest.raises(ItemError, match="item b: expected a true caption with words"):
        metric.update(item("b", "...", "cats"))
    assert metric.result()["items"] == 1


def test_a_prediction_without_words():
    r = counted(item("a", "dogs bark", "?!"), item("b", "cats", "cats")).result()
    assert r["unparsed"] == 0
    assert r["rouge_l"] == pytest.approx(0.5)


def test_orders_of_ngrams():
    assert text.ngrams(("a", "b", "a"), 2) == {("a", "b"): 1, ("b", "a"): 1}
    assert text.ngrams(("a",), 2) == {}
