"""What the language model of crab-mini is asked besides the nine tasks."""

import itertools
import re

import jax
import numpy as np
import pytest
from language_pools import CAT, CELLO, DRUM, POOLS, pool, shown

from crab_jax.tokens import MASK_RUN
from data_pipelines.world import phrases
from data_pipelines.world.casting import names_in, reserved_pair
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.stage import Performer
from launch import language_media as lm
from launch import language_questions as lq
from launch.language_media import Heard, Pools, Seen
from launch.part_lessons import codes
from launch.part_scenes import NAMES, Job

PICTURE = (Seen(CAT, (0, 10, 50, 90)), Seen(DRUM, (100, 20, 180, 200)))
VIDEO = (Seen(CAT, spans=((0, 4),)), Seen(DRUM, spans=((2, 10),)))
SOUND = (Heard(DRUM, ((1, 3), (5, 9)), 0.1), Heard(CELLO, ((2, 10),), 0.2))


def asked(about, *facts, count=300):
    """Question → the different things that are asked and answered."""
    rng = np.random.default_rng(0)
    return {(a.question, a.answer, a.marked) for a in (about(rng, *facts) for _ in range(count))}


def test_answers_about_a_picture():
    found = dict(pair[:2] for pair in asked(lq.about_still, PICTURE))
    assert found["Where exactly is the drum?"].endswith(
        "top left corner is (100,20) and coordinate of bottom right corner is (180,200)"
    )
    assert found["What stands next to the cat, to its right?"] == "A drum"
    assert found["What stands next to the drum, to its left?"] == "A cat"
    assert found["How many are there?"] == "Two: a cat and a drum"
    assert found["Is there a cat?"] == "Yes"
    assert "No" in found.values()
    assert found["What is between (0,10) and (50,90)?"] == "A cat"


def test_answers_about_a_sound():
    found = dict(pair[:2] for pair in asked(lq.about_sound, SOUND))
    assert found["When is the drum heard?"] == "From 1 to 3 and from 5 to 9 seconds"
    assert found["What is heard from 2 to 3 seconds?"] == "A drum and a cello"
    assert found["What is heard from 0 to 1 seconds?"] == "Nothing"
    assert found["What is heard from 4 to 5 seconds?"] == "A cello"
    assert found["What is loudest?"] == "The cello"
    assert found["What begins first?"] == "The drum, after 1 seconds"
    longer = [answer for question, answer in found.items() if question.startswith("What sounds longer")]
    assert longer
    assert all(answer.endswith(": the cello") for answer in longer)


def test_answers_about_a_video_and_its_sound():
    found = dict(pair[:2] for pair in asked(lq.about_both, VIDEO, SOUND))
    together = found["Who is seen and heard at the same time, and when?"]
    assert together == (
        "The drum is seen from 2 to 10 seconds and heard from 1 to 3 and from 5 to 9 seconds: "
        "from 2 to 3 and from 5 to 9 seconds"
    )
    assert found["What is heard, but never seen?"] == "A cello"
    assert found["Who is seen, but never heard?"] == "A cat"
    alone = dict(pair[:2] for pair in asked(lq.about_video, VIDEO))
    assert alone["What is seen from 5 to 6 seconds?"] == "A drum"
    assert alone["When is the cat seen?"] == "From 0 to 4 seconds"


@pytest.mark.parametrize(
    ("about", "facts", "who"),
    [
        (lq.about_moment, (PICTURE, SOUND[:1]), {"what makes the sound": (DRUM,), "who sounds": (DRUM,)}),
        (lq.about_moment, (PICTURE, SOUND[1:]), {"all that sound": ()}),
        (
            lq.about_track,
            (PICTURE, SOUND),
            {"the silent one": (CAT,), "the only one that sounds": (DRUM,), "the silent drum": ()},
        ),
        (
            lq.about_track,
            (PICTURE, (Heard(CAT, ((4, 6),), 0.1), Heard(DRUM, ((0, 3),), 0.05))),
            {"the loudest": (CAT,), "the first one that sounds": (DRUM,), "all that sound": (CAT, DRUM)},
        ),
        (
            lq.marked_alone,
            (PICTURE,),
            {"the rightmost one": (DRUM,), "the one just left of the drum": (CAT,), "the cat": (CAT,)},
        ),
    ],
)
def test_who_is_marked(about, facts, who):
    found = {}
    for question, answer, marked in asked(about, *facts, count=800):
        assert (marked is not None) == (MASK_RUN in answer), (question, answer)
        if marked is not None:
            what = re.sub(r"^(Please mark|Mark|Show me) | in the picture\.$|\.$", "", question)
            found.setdefault(what, set()).add(marked)
    assert {what: found.get(what) for what in who} == {what: {marked} for what, marked in who.items()}


def test_when_instruments_of_a_concert_are_heard():
    heard = (Heard(DRUM, ((15, 60),), 0.1), Heard(CELLO, ((0, 33),), 0.2))
    answers = {}
    for question, answer, marked in asked(lq.about_concert, heard):
        assert marked is None
        names = re.findall(r"the (\w+)", question.split(", ", 1)[1])
        told = f"{answer}.".split(". ")
        assert [next(n for n in names if f"he {n}" in sentence) for sentence in told] == names, (question, answer)
        for name, sentence in zip(names, told):
            answers.setdefault(name, set()).add(sentence.removesuffix("."))
    assert answers["drum"] == {
        "The drum sounds from 15 to 60 seconds", "The drum is heard from 15 to 60 seconds",
        "I hear the drum from 15 to 60 seconds",
    }  # fmt: skip
    assert all("from 0 to 33 seconds" in sentence for sentence in answers["cello"])
    others = set.union(*(said for name, said in answers.items() if name not in ("drum", "cello")))
    assert all("no sound" in sentence or "never" in sentence for sentence in others)
    assert others


def test_concerts_sound_when_they_are_said_to():
    """Their windows stand for moments six seconds apart; whoever is not asked about may be heard as well."""
    made, counted = lq.questions(np.random.default_rng(2), POOLS), 0
    for lesson in itertools.islice(made, 400):
        if lesson.sort != "concert":
            continue
        now = shown(lesson.heard, "music")
        assert [{NAMES[k] for k in np.flatnonzero(row)} for row in lesson.audible] == now
        for name, start, end in re.findall(
            r"the (\w+) (?:sounds |is heard )?from (\d+) to (\d+)", lesson.target.lower()
        ):
            (kind,) = (k for k in KINDS if KINDS[k].names.get("avqa") == name)
            assert [kind in some for some in now] == [int(start) <= 6 * k < int(end) for k in range(10)]
            counted += 1
    assert counted > 60


def test_the_setting_is_told_as_it_is_in_concerts():
    for setting, wordings in phrases.SETTING.items():
        said = {f"The performance takes place {place}" for place in wordings}
        assert {answer for _, answer, _ in asked(lq.about_setting, setting)} == said


def test_every_second_picture_has_instruments_alone():
    kinds = {odd: set() for odd in (False, True)}
    for index in range(12):
        for picture in lm.render_still(Job("train", index, 3, 32, 0)):
            kinds[bool(index % 2)] |= {seen.kind for seen in picture.who}
    assert kinds[True] <= set(names_in("avqa"))
    assert not kinds[False] <= set(names_in("avqa"))


def test_choices_of_everybody_occur():
    for count, seconds in ((1, 10), (2, 10), (3, 10), (4, 16)):
        there = lm.turns(np.random.default_rng(count), count, seconds)
        assert there.shape == (seconds, count)
        assert len({tuple(row) for row in there.tolist()}) == 2**count


def test_no_question_brings_together_what_is_kept_for_testing():
    """Pictures and sounds are rendered apart, but put together as the training split would."""
    pairs = [(a, b) for a in NAMES for b in NAMES if a < b]
    apart, together = (next(p for p in pairs if reserved_pair(*p) == wanted) for wanted in (True, False))
    names = {kind for pair in (apart, together) for kind in pair}
    boxes = [(Seen(kind, (0, 0, 9, 9), performer=Performer(kind, 0.5)),) for kind in names]
    sounds = [tuple(Heard(kind, (), 0.1) for kind in pair) for pair in (apart, together)]
    one, two = lm.turns(np.random.default_rng(0), 1, 10), lm.turns(np.random.default_rng(0), 2, 10)

    found = set()
    made = lq.questions(
        np.random.default_rng(0),
        Pools(
            pool(boxes, 1),
            pool(boxes, 10, there=[one] * len(boxes)),
            pool(sounds, 10, there=[two] * 2),
            pool([(Heard(DRUM, (), 0.1), Heard(CELLO, (), 0.2))], 10, there=[two]),
            *(pool([], 1) for _ in range(2)),
        ),
    )
    for lesson in itertools.islice(made, 400):
        if len(lesson.seen) and len(lesson.heard):
            (here,) = boxes[int(lesson.seen[0, 0, 0]) // len(lesson.seen)]
            numbers = lesson.heard[:, 0, 0].astype(int)
            others = {h.kind for n in numbers for h, on in zip(sounds[n // 10], two[n % 10]) if on}
            assert not any(reserved_pair(here.kind, h) for h in others if h != here.kind)
            found.add(here.kind in others)
    assert found == {True, False}, "mostly somebody who sounds, sometimes somebody else"


def test_everything_has_a_name_to_be_asked_for():
    nouns = [phrases.noun(kind) for kind in NAMES]
    assert len(set(nouns)) == len(KINDS)
    assert jax.numpy.unique(codes(16).round(3), axis=0).shape[0] == len(KINDS)
