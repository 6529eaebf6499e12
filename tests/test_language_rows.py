"""Rows of lessons: what is known of every picture, window and answer."""

import itertools
import re

import numpy as np
from language_pools import CAT, CELLO, DRUM, POOLS, drawn, shown

from crab_jax.tokens import MASK_RUN, Tokenizer
from data_pipelines.world import phrases
from launch import language_rows as lr
from launch import task_questions as tq
from launch.language_questions import Lesson
from launch.part_scenes import NAMES


def test_rows_hold_what_their_questions_are_about():
    tokenizer = Tokenizer.tiny()
    rows = drawn(1, rows=3, tasks=0.7)
    ids, filled = tokenizer.token_ids, []
    for batch, given in itertools.islice(rows, 12):
        filled.append((batch.segment > 0).mean())
        assert given.seen.shape == (3, lr.LAYOUT.frames * 4, 160)
        for row in range(3):
            for tokens, slots in ((given.seen[row, :, 0], ids.visual), (given.heard[row, :, 0], (ids.audio,))):
                wanted = np.isin(batch.tokens[row], slots).sum()
                assert (tokens[:wanted] > 0).all(), "every placeholder gets something"
                assert (tokens[wanted:] == 0).all(), "and nothing is left over"
            assert (given.marked[row].sum(-1) > 0).sum() <= (batch.mask_segment[row] > 0).sum()
            masks = np.isin(batch.tokens[row], ids.masks).sum()
            assert masks == 6 * (batch.mask_segment[row] > 0).sum()
    assert np.mean(filled) > 0.8


def test_every_picture_and_window_has_its_moment_and_facts():
    tokenizer = Tokenizer.tiny()
    rows, kinds = drawn(3, rows=4, tasks=0.9), len(NAMES)
    ids, compared = tokenizer.token_ids, 0
    for batch, given in itertools.islice(rows, 6):
        for row in range(4):
            items, earlier = given.moment[row] >= 0, np.zeros(kinds)
            placed = np.isin(batch.tokens[row], (*ids.visual, ids.audio))
            assert 4 * items.sum() == placed.sum()
            assert placed[given.last[row, items]].all(), "the last token is one of them"
            told = {"videos": given.seen[row], "sounds": given.heard[row]}
            for at, moment, facts in zip(given.last[row, items], given.moment[row, items], given.facts[row, items]):
                sense = "sounds" if batch.tokens[row, at] == ids.audio else "videos"
                slots = (ids.audio,) if sense == "sounds" else ids.visual
                number = np.isin(batch.tokens[row, : at + 1], slots).sum() - 1
                pool = POOLS.sounds if sense == "sounds" else POOLS.videos
                first = pool.tokens.min()
                if not first <= told[sense][number, 0] <= pool.tokens.max():
                    continue  # a picture of its own, or a concert
                (there,) = shown(told[sense][number].reshape(1, 1, -1), sense)
                assert {NAMES[k] for k in np.flatnonzero(facts[:kinds])} == there
                before = earlier * (moment > 0)
                np.testing.assert_array_equal(facts[kinds : 2 * kinds], facts[:kinds] * (1 - before))
                np.testing.assert_array_equal(facts[2 * kinds :], before * (1 - facts[:kinds]))
                earlier, compared = facts[:kinds], compared + 1
    assert compared > 100


def test_what_all_moments_so_far_say():
    cat, drum, cello = (NAMES.index(kind) for kind in (CAT, DRUM, CELLO))
    there = np.zeros((5, len(NAMES)), bool)
    there[1:3, drum] = there[2:5, cat] = there[4, cello] = True
    ever, first, last, longest, loudest = np.split(lr._stories(there, {DRUM: 0.2, CAT: 0.1, CELLO: 0.4}), 5, axis=1)
    told = [[set(np.flatnonzero(row)) for row in part] for part in (ever, first, last, longest, loudest)]
    assert told[0] == [set(), {drum}, {drum, cat}, {drum, cat}, {drum, cat, cello}]
    assert told[1] == [set(), {drum}, {drum}, {drum}, {drum}]
    assert told[2] == [set(), {drum}, {cat}, {cat}, {cello}]
    assert told[3] == [set(), {drum}, {drum}, {drum, cat}, {cat}]
    assert told[4] == [set(), {drum}, {drum}, {drum}, {cello}]
    assert lr._stories(there[:0], {}).shape == (0, 5 * len(NAMES))
    assert not np.split(lr._stories(there, {}), 5, axis=1)[4].any(), "nothing is known of the loudness of pictures"


def test_who_stands_where():
    shown = np.zeros(len(NAMES), bool)
    shown[[NAMES.index(CAT), NAMES.index(DRUM)]] = True
    one, other = 1 + NAMES.index(CAT), 1 + NAMES.index(DRUM)
    assert lr._places((DRUM, CELLO, DRUM, CAT), shown) == [other, other, one, 0, 0]
    for batch, given in itertools.islice(drawn(6, rows=2, tasks=0.8), 4):
        ids = Tokenizer.tiny().token_ids
        for row in range(2):
            pictures = np.isin(batch.tokens[row, given.last[row]], ids.visual) & (given.moment[row] >= 0)
            np.testing.assert_array_equal(given.places[row].min(-1) >= 0, pictures)
            there = given.facts[row][:, : len(NAMES)]
            for facts, places in zip(there[pictures], given.places[row, pictures]):
                assert {*places[places > 0] - 1} == set(np.flatnonzero(facts))


def says(answer, **parts):
    nobody, nothing = np.zeros((0, len(NAMES)), bool), np.zeros((0, 4, 160))
    return Lesson("", "", answer, nothing, nothing, None, nobody, nobody, (), {}, **parts)


def test_numbers_of_answers():
    tokenizer = Tokenizer.tiny()

    def whole(answer):
        numbers = lr._numbers(tokenizer, says(answer))
        assert len(numbers) == len(tokenizer.encode_target(answer))
        assert (numbers[:, :6] == numbers[0, :6]).all(), "an answer has them everywhere"
        return numbers[0, :6].tolist()

    corners = "Its coordinate of top left corner is ({},{}) and coordinate of bottom right corner is ({},{})"
    assert whole(f"The drum: {corners.format(0, 9, 223, 224)}") == [0, 1, 27, 27, -1, -1]
    assert whole("and the time range is <range> 2,10 </range>.") == [-1, -1, -1, -1, 2, 10]
    assert whole(f"{corners.format(1, 2, 3, 4)}. {corners.format(5, 6, 7, 8)}") == [-1] * 6, "which of them?"
    asked, rng = {"arig": 0, "ave": 0}, drawn(4, rows=2, tasks=1.0)
    for batch, given in itertools.islice(rng, 8):
        said, told = batch.labels >= 0, given.numbers.max(-1) >= 0
        assert not (told & ~said).any(), "nothing is asked of places that predict nothing"
        for task, column in zip(asked, (0, 4)):
            asked[task] += (given.numbers[..., column] >= 0).sum()
    assert all(asked.values())
    concerts = (x for x in tq.tasks(np.random.default_rng(1), POOLS) if x.sort == "avqa" and "seconds" in x.target)
    for lesson in itertools.islice(concerts, 10):
        (start, end), *_ = re.findall(r"from (\d+) to (\d+) seconds", lesson.target)
        assert [int(start), int(end)] in lr._numbers(tokenizer, lesson)[:, 6:].tolist()


def test_times_of_sentences():
    """Each has its own, from its first word to its last; of seconds joined by `and` none is told."""
    tokenizer = Tokenizer.tiny()
    one, other = "The cello sounds from 3 to 60 seconds", "I hear the drum from 15 to 33 seconds"
    answer = f"I hear nobody else. {one}. {other}. The cat is seen from 1 to 2 and from 4 to 5 seconds. Yes."
    numbers = lr._numbers(tokenizer, says(answer))
    pieces = tokenizer.tokenize(f"{answer}</s>")
    assert (numbers[:, :6] == -1).all()
    for times, sentence in (((3, 60), one), ((15, 33), other)):
        told = "".join(p for p, pair in zip(pieces, numbers[:, 6:]) if tuple(pair) == times)
        assert told.replace("\u2581", " ").strip() == sentence
    assert {tuple(pair) for pair in numbers[:, 6:].tolist()} == {(-1, -1), (3, 60), (15, 33)}
    assert (lr._numbers(tokenizer, says(answer, given=(f"{one}.",))) == -1).all(), "who has only words cannot know"


def test_what_is_concluded_counts_as_much_as_the_answer():
    tokenizer = Tokenizer.tiny()
    noticed, follows = "I hear a cello and a flute.", "The drum is not among them."
    answer = f"{noticed} {follows} So the answer is <answer> no </answer>."
    pieces, weights = (
        tokenizer.tokenize(f"{answer}</s>"),
        lr._weights(tokenizer, says(answer, given=(noticed,), concluded=(follows,))),
    )
    by = {value: [p for p, w in zip(pieces, weights) if w == value] for value in (0, 1, 8)}
    assert "".join(by[0]).replace("\u2581", " ").strip() == noticed
    assert "".join(by[8]).replace("\u2581", " ").strip() == f"{follows} no"
    assert len(by[0]) + len(by[1]) + len(by[8]) == len(pieces)
    for lesson in itertools.islice((x for x in tq.tasks(np.random.default_rng(0), POOLS) if x.sort == "avqa"), 30):
        assert not lesson.given
        assert all(part in lesson.target for part in lesson.concluded)
        counted = {w for w in lr._weights(tokenizer, lesson)}
        assert 0 not in counted, "where there are media, everything is to be learned"


def test_what_an_answer_turns_on_counts_most():
    tokenizer = Tokenizer.tiny()
    answer = "I hear a cello from 3 to 60 seconds. So the answer is <answer> two </answer>."
    pieces, weights = tokenizer.tokenize(f"{answer}</s>"), lr._weights(tokenizer, says(answer))
    assert len(weights) == len(tokenizer.encode_target(answer)) == len(pieces)
    by = {value: "".join(p for p, w in zip(pieces, weights) if w == value) for value in (1, 2, 5, 8)}
    by = {value: told.replace("\u2581", " ").strip() for value, told in by.items()}
    assert (by[2], by[5], by[8]) == ("cello", "3 to 60", "two")
    noticed = "I hear a cello from 3 to 60 seconds."
    weights = lr._weights(tokenizer, says(answer, noticed=(noticed,)))
    told = {value: "".join(p for p, w in zip(pieces, weights) if w == value) for value in (1, 3, 5, 8)}
    told = {value: text.replace("\u2581", " ").strip() for value, text in told.items()}
    assert told[3].split() == ["I", "hear", "a", "cello", "from", "seconds."], "where a list ends matters, too"
    assert (told[5], told[8], told[1][:2]) == ("3 to 60", "two", "So")
    for name in sorted(lr.CALLED):
        named = f"It is {name}, <event> {name} </event>"
        weights = lr._weights(tokenizer, says(named))
        told = "".join(p for p, w in zip(tokenizer.tokenize(f"{named}</s>"), weights) if w == 2)
        assert told.replace("\u2581", "").startswith(name.replace(" ", "")), "as it is called, brackets and all"
    placed = "The performance takes place on a meadow. So the answer is <answer> outdoor </answer>."
    weights = lr._weights(tokenizer, says(placed))
    told = "".join(p for p, w in zip(tokenizer.tokenize(f"{placed}</s>"), weights) if w == 8)
    assert told.replace("\u2581", " ").split() == ["on", "a", "meadow", "outdoor"]
    masked = f"The cello is {MASK_RUN}."
    assert len(lr._weights(tokenizer, says(masked))) == len(tokenizer.encode_target(masked))
    assert set(lr._weights(tokenizer, says(MASK_RUN))) == {1.0}, "a text that begins with a tag has no mark in front"
    for batch, given in itertools.islice(drawn(7, rows=2, tasks=0.9), 4):
        np.testing.assert_array_equal(given.weights > 0, batch.labels >= 0)


def test_the_setting_is_told_of_concerts_and_where_it_is_asked_for():
    """Of whatever else, and of words alone, it is not."""
    found = set()
    rows = drawn(4, rows=4, tasks=0.7, words=0.2)
    for _, given, packed in itertools.islice(rows.packed(), 60):
        for r, row in enumerate(packed):
            for said, lesson in lr.answers_of(row):
                told = set(given.cast[r, said, -1])
                if lesson.sort not in ("avqa", "setting"):
                    assert told == {-1}, lesson.sort
                    continue
                assert told == {float(lesson.outdoors)}
                if place := re.search(r"The performance takes place (.*?)\.", lesson.target):
                    assert (place[1] in phrases.SETTING["park"]) == lesson.outdoors
                    found.add((lesson.sort, lesson.outdoors))
    assert found == {(sort, outdoors) for sort in ("avqa", "setting") for outdoors in (True, False)}
