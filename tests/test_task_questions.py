"""The nine tasks about media that are put together anew, and conclusions without media."""

import itertools
import re
from collections import Counter

import numpy as np
from language_pools import POOLS, shown

from crab_jax.tasks import TASKS
from crab_jax.tasks.answers import Unparsed
from crab_jax.tasks.vocabulary import MUSIC_AVQA_ANSWERS
from data_pipelines.world import phrases
from data_pipelines.world.casting import names_in, reserved_pair
from data_pipelines.world.concerts import SEEN
from data_pipelines.world.expressions import UNSEEN
from data_pipelines.world.kinds import KINDS
from launch import language_media as lm
from launch import task_questions as tq
from launch.part_scenes import NAMES, Job


def lessons_of(*names, count=40):
    found, drawn = {name: [] for name in names}, tq.tasks(np.random.default_rng(1), POOLS)
    while min(map(len, found.values())) < count:
        lesson = next(drawn)
        if lesson.sort in found:
            found[lesson.sort].append(lesson)
    return [lesson for some in found.values() for lesson in some]


def test_events_are_seen_and_heard_when_they_are_said_to_be():
    for lesson in lessons_of("avvp"):
        told = TASKS["avvp"].parse(lesson.target)
        for sort, tokens, events in (("videos", lesson.seen, told.visual), ("sounds", lesson.heard, told.audio)):
            for second, there in enumerate(shown(tokens, sort)):
                said = {e.name for e in events if e.start_s <= second < e.end_s}
                assert {KINDS[kind].names["avvp"] for kind in there} == said, (lesson, second)
    for lesson in lessons_of("ave"):
        (event,) = TASKS["ave"].parse(lesson.target).events
        both = [a & b for a, b in zip(shown(lesson.seen, "videos"), shown(lesson.heard, "sounds"), strict=True)]
        named = [{KINDS[kind].names["ave"] for kind in kinds} for kinds in both]
        assert [event.name in kinds for kinds in named] == [event.start_s <= s < event.end_s for s in range(10)]
        assert all(kinds <= {event.name} for kinds in named)


def test_who_is_marked_is_who_sounds_in_the_picture():
    for lesson in lessons_of("s4", "ms3", "avss", "arig"):
        (picture,), (sounding,) = lesson.seen[:, 0, 0].astype(int) - 1, shown(lesson.heard, "sounds")
        who = {s.kind: s for s in POOLS.stills.who[picture]}
        assert sounding <= set(who)
        if lesson.sort == "arig":
            (kind,) = sounding
            box = TASKS["arig"].parse(lesson.target)
            assert (box.label, (box.x1, box.y1, box.x2, box.y2)) == (KINDS[kind].name, who[kind].box)
            assert len(who) > 1
        else:
            assert set(lesson.marked) == sounding
            assert lesson.sort != "s4" or len(sounding) == 1


def test_an_expression_marks_one_or_nobody():
    lessons = lessons_of("ref-avs", count=150)
    for lesson in lessons:
        (picture,), heard = lesson.seen[:, 0, 0].astype(int) - 1, shown(lesson.heard, "sounds")
        who = [s.kind for s in POOLS.stills.who[picture]]
        sounding = set().union(*heard)
        assert sounding <= set(who)
        assert set(lesson.marked) <= set(who)
        assert not set(who) & set(UNSEEN)
        if "the silent one" in lesson.prompt:
            assert {*lesson.marked} == set(who) - sounding
        if "the leftmost one" in lesson.prompt:
            assert lesson.marked == (who[0],)
    assert 0 < sum(not lesson.marked for lesson in lessons) < 40


def test_captions_and_music_answers():
    for lesson in lessons_of("avqa", "avcap"):
        assert lesson.seen.shape[0] == lesson.heard.shape[0] == 10
        answer = TASKS[lesson.sort].parse(lesson.target)
        assert not isinstance(answer, Unparsed)
        if lesson.sort == "avcap":
            noun = {phrases.noun(kind): kind for kind in NAMES}
            said = {kind for name, kind in noun.items() if re.search(rf"\b{name}\b", lesson.target)}
            assert set().union(*shown(lesson.seen, "videos")) <= said
        else:
            assert answer.answer in MUSIC_AVQA_ANSWERS


def test_concerts_are_played_again_as_they_are_told():
    again, elsewhere = 0, 0
    for lesson in lessons_of("avqa", count=150):
        picture = int(lesson.seen[0, 0, 0])
        if picture < 100000:
            elsewhere += 1
            assert (lesson.seen == picture).all(), "nobody moves in a single picture"
            assert lesson.on_stage == tuple(s.kind for s in POOLS.stills.who[picture - 1])
            assert {*lesson.on_stage} <= {*names_in("avqa")}
        else:
            scene = POOLS.looks.scenes[(picture - 100000) // 10]
            assert lesson.on_stage == tuple(p.kind for p in scene.performers if p.seen)
        if lesson.heard[0, 0, 0] >= 200000:
            assert picture >= 100000
            continue  # as it was rendered
        again += 1
        told = [{NAMES[j] for j in np.flatnonzero(row)} for row in lesson.audible]
        assert told == shown(lesson.heard, "music")
        heard = set().union(*told)
        assert set(lesson.loudness) == heard
        levels = sorted(lesson.loudness.values())
        assert all(b >= tq.CLEARLY * a for a, b in itertools.pairwise(levels))
        everybody = {*heard, *lesson.on_stage}
        assert not any(reserved_pair(a, b) for a in heard - {*lesson.on_stage} for b in everybody - {a})
        found = re.search(r"Is there an? (\w+) sound\?|Can an? (\w+) be heard\?", lesson.prompt)
        if found:
            name = found[1] or found[2]
            assert TASKS["avqa"].parse(lesson.target).answer == (
                "yes" if name in {KINDS[kind].names["avqa"] for kind in heard} else "no"
            )
    assert again > elsewhere > 30


def test_music_is_heard_in_windows_of_two_seconds():
    for index in range(3):
        (music,) = lm.render_music(Job("train", index, 5, 32, 0))
        (sound,) = lm.render_sound(Job("train", index, 5, 32, 0))
        assert len(music.media) == len(sound.media) == len(music.there) == lm.WINDOWS
        assert 1.9 < music.media.shape[1] / sound.media.shape[1] < 2.1
        assert {h.kind for h in music.who} <= {*names_in("avqa")}
        levels = sorted(h.loudness for h in music.who)
        assert all(b > tq.CLEARLY * a for a, b in itertools.pairwise(levels))
        loud = music.media.astype(np.float32).mean((1, 2))
        silent = ~music.there.any(1)
        assert silent.any()
        assert loud[silent].max() < loud[~silent].min(), "nobody is heard where nobody plays, two seconds each"
        for one, heard in zip(music.scene.performers, music.there.T):
            seconds = [lm.at(one.heard, 2 * k) and lm.at(one.heard, 2 * k + 1) for k in range(lm.WINDOWS)]
            assert seconds == heard.tolist()


def test_bands_are_as_many_as_concerts_have():
    """Where there are enough pictures; a picture has no five, and nobody twice."""
    drawn = tq.Tasks(np.random.default_rng(0), POOLS)
    sizes = [sum(bool(p.seen) for p in drawn._band()[0].performers) for _ in range(400)]
    shares = np.bincount(sizes, minlength=6)[1:5] / 400
    expected = np.array(SEEN[:4]) * [size in drawn._bands for size in (1, 2, 3, 4)]
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.08)
    assert shares[1:3].sum() > 0.5


def test_conclusions_follow_from_what_was_noticed():
    """Everything that is to be learned of them is in the question and in what is given."""
    asked = set()
    for lesson in itertools.islice(tq.conclusions(np.random.default_rng(0)), 400):
        assert "<" not in lesson.prompt, "no media"
        assert lesson.given
        assert all(part in lesson.target for part in lesson.given)
        left, given = lesson.target, " ".join(lesson.given)
        for part in lesson.given:
            left = left.replace(part, "")
            assert " and " not in part, "the next word tells whether a list goes on"
        names = [kind.names["avqa"] for kind in KINDS.values() if "avqa" in kind.names]
        nouns = {kind.names["avqa"]: kind.noun for kind in KINDS.values() if "avqa" in kind.names}
        for name in names:
            if re.search(rf"\b{name}\b", left):
                assert name in f"{lesson.prompt} {given}" or nouns[name] in given, lesson
        answer = TASKS["avqa"].parse(lesson.target).answer
        if lesson.prompt.endswith("heard but not seen?"):
            assert (answer == "yes") == ("cannot be seen." in left), lesson
            asked.add(answer)
        told = re.findall(r"The ([a-z ]+?) (can|cannot) be (seen|heard)\.", left)
        if told:  # one by one in the order of the list, each looked up in the other one
            listed, other = reversed(lesson.given) if told[0][2] == "seen" else lesson.given
            assert [name for name, _, _ in told] == re.findall(rf"\b({'|'.join(nouns.values())})\b", listed), lesson
            assert all((can == "can") == bool(re.search(rf"\b{name}\b", other)) for name, can, _ in told), lesson
        if re.search("sounding in the video|the instruments in the video are sounding", lesson.prompt):
            assert phrases.NUMBERS[sum(can == "can" for _, can, _ in told)] == answer, lesson
            asked.add(answer)
        if "sound from beginning to end" in lesson.prompt:
            assert phrases.NUMBERS[sum(can == "cannot" for _, can, _ in told)] == answer, lesson
        if pair := re.search("Are there (\\w+) and (\\w+) inst", lesson.prompt):
            there = [bool(re.search(rf"\b{nouns[name]}\b", given)) for name in pair.groups()]
            assert (answer == "yes") == all(there), lesson
            assert [said == "is" for said in re.findall("is(?: not)?(?= among)", left)] == there, lesson
        if pair := re.search("Is the (\\w+) playing longer than the (\\w+)", lesson.prompt):
            assert (answer == "yes") == (f"The {pair[1]} plays longer than the {pair[2]}." in left)
            assert (answer == "yes") == (f"The {nouns[pair[1]]} is the one." in left), lesson
        if pair := re.search("Is the (\\w+) louder than the (\\w+)", lesson.prompt):
            first, second = (given.find(nouns[name]) for name in pair.groups())
            assert (answer == "yes") == (first < second), "the loudest comes first"
            assert (answer == "yes") == (f"The {pair[1]} is louder than the {pair[2]}." in left)
            assert (answer == "yes") == (f"The {nouns[pair[1]]} is the one." in left), lesson
            told = re.findall(r"The ([a-z ]+?) is (not )?one of the two", left)
            listed = re.findall(rf"\b({'|'.join(nouns.values())})\b", given)
            assert [name for name, _ in told] == listed[: len(told)], "down the list"
            assert [not no for _, no in told] == [False] * (len(told) - 1) + [True]
            assert {told[-1][0]} == {nouns[name] for name in pair.groups()} & {name for name, _ in told}
        if told := re.findall(r"The ([a-z ]+?) is (one|not one|a new kind|no new kind)\.", left):
            listed = re.findall(rf"\b({'|'.join(nouns.values())})\b", given)
            assert [name for name, _ in told] == listed, "along the list"
            if "How many types" in lesson.prompt:
                assert [said == "a new kind" for _, said in told] == [n not in listed[:k] for k, n in enumerate(listed)]
            else:
                asked_for = nouns[re.search(r"How many (\w+)s are", lesson.prompt)[1]]
                assert [said == "one" for _, said in told] == [name == asked_for for name in listed], lesson
            assert phrases.NUMBERS[sum(said in ("one", "a new kind") for _, said in told)] == answer, lesson
            asked.add(told[0][1])
        if asked_about := re.search("Asked about is the (\\w+) one", left):
            assert re.search(r"(?:from|on) the (left|right)", lesson.prompt)[1] == asked_about[1]
            assert (answer == "yes") == (f"is on the {asked_about[1]}." in left), lesson
            asked.add("side")
        if re.search("question: (Is there|Does) an? ", lesson.prompt) and not re.search(
            "outside|not seen", lesson.prompt
        ):
            assert re.search("is (not )?among them", left)
            assert (answer == "no") == ("not among" in left)
        if "instrument of the" in lesson.prompt:
            assert f"is the {nouns[answer]}. So the" in left
    assert {"yes", "no", "one", "two", "side", "a new kind"} <= asked


def test_some_conclusions_are_about_lists_alone():
    """Whether somebody is on one, and what two of them have in common; no answer is nearly always right."""

    def drawn(**shares):
        return [*itertools.islice(tq.conclusions(np.random.default_rng(0), **shares), 300)]

    def answers(lessons):
        return Counter(TASKS["avqa"].parse(lesson.target).answer for lesson in lessons)

    def about(lessons):
        return sum(bool(re.search("mong them", lesson.target)) for lesson in lessons) / len(lessons)

    among, comparing, usual = drawn(among=1.0), drawn(comparing=1.0), drawn()
    assert (about(among), about(comparing)) == (1, 0)
    assert about(usual) < 0.3
    assert 0.35 < about(drawn(among=0.5)) < 0.8
    assert drawn(among=0.9, comparing=0.1), "shares are floats: 1 - 0.9 - 0.1 is less than nothing"
    assert max(answers(among).values()) < 200
    assert {"yes", "no", "zero", "one", "two", "left", "right"} <= set(answers(comparing))
    assert max(answers(comparing).values()) < 120
    templates = Counter(lesson.sort.removeprefix("conclusion ") for lesson in comparing)
    assert set(templates) <= set(tq.COMPARING)
    assert templates["louder"] > 2 * templates["how_many_silent"], "what is found late is asked more often"
