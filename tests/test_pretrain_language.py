"""What the language model of crab-mini is asked before the stages, and how it learns from it."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mini
from crab_jax.config import build
from crab_jax.model import CrabConfig, abstract, mask_positions
from crab_jax.starting import handed_on, newest_checkpoint
from crab_jax.tasks import TASKS
from crab_jax.tasks.answers import Unparsed
from crab_jax.tasks.vocabulary import MUSIC_AVQA_ANSWERS
from crab_jax.tokens import MASK_RUN, Tokenizer
from data_pipelines.world import phrases
from data_pipelines.world.casting import Casting, names_in, reserved_pair
from data_pipelines.world.concerts import SEEN, concert
from data_pipelines.world.expressions import UNSEEN
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.stage import Performer, Scene
from launch import language_losses as ll
from launch import language_media as lm
from launch import language_questions as lq
from launch import language_rows as lr
from launch import pretrain_language as pl
from launch import task_questions as tq
from launch.language_media import Heard, Pool, Pools, Rendered, Seen
from launch.part_scenes import NAMES, Job
from launch.pretrain_parts import codes, nobody, write

CONFIG = build(CrabConfig, mini.get_config().model.to_dict())
CAT, DRUM, CELLO = (next(k for k in NAMES if k.startswith(word)) for word in ("cat", "drum", "cello"))
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


def pool(who, items, first=0, queries=4, width=160, there=None, scenes=None):
    """What every item says is its own number, so that it can be found again."""
    tokens = first + np.arange(len(who) * items).reshape(len(who), items, 1, 1)
    there, scenes = there or [None] * len(who), scenes or [Scene(())] * len(who)
    found = [Rendered(np.zeros((items, 1)), w, t, s) for w, t, s in zip(who, there, scenes, strict=True)]
    return Pool.made(np.broadcast_to(tokens, (len(who), items, queries, width)).astype(np.float32), found)


def stage(rng, seconds, most, names=NAMES):
    """A few of the kinds, none kept apart from another, and who of them is there when."""
    kinds: list[str] = []
    for name in rng.permutation(names).tolist():
        if len(kinds) < most and not any(reserved_pair(name, kind) for kind in kinds):
            kinds.append(name)
    return kinds, lm.turns(rng, len(kinds), seconds)


def pools():
    """Of every sort some, with all kinds."""
    rng = np.random.default_rng(5)

    def seen(kind, place):
        left = int(200 * place)
        return Seen(kind, (left, 10, left + 20, 90), (), 0.02, Performer(kind, place, heard=()))

    videos = [stage(rng, 10, int(rng.integers(1, 4))) for _ in range(60)]
    sounds = [stage(rng, lm.WINDOWS, 4) for _ in range(400)]
    music = [stage(rng, lm.WINDOWS, 4, names_in("avqa")) for _ in range(400)]
    stills = [stage(rng, 1, int(rng.integers(1, 5)))[0] for _ in range(200)]
    orders = [Job("train", k, 9, 32, 0).order("language concert", (32, 32)) for k in range(20)]
    played = [concert(Casting(order.rng(), False), order) for order in orders]
    spread = lambda kinds: tuple(seen(kind, (k + 0.5) / len(kinds)) for k, kind in enumerate(kinds))  # noqa: E731
    return Pools(
        stills=pool([spread(kinds) for kinds in stills], 1, 1),
        videos=pool(
            [spread(kinds) for kinds, _ in videos], 10, 1000, there=[there for _, there in videos],
            scenes=[Scene(tuple(s.performer for s in spread(kinds))) for kinds, _ in videos],
        ),
        sounds=pool(
            [tuple(Heard(kind, (), 0.05 * 1.9**k) for k, kind in enumerate(kinds)) for kinds, _ in sounds],
            lm.WINDOWS, 10000, there=[there for _, there in sounds],
        ),
        music=pool(
            [tuple(Heard(kind, (), 0.05 * 1.9**k) for k, kind in enumerate(kinds)) for kinds, _ in music],
            lm.WINDOWS, 20000, there=[there for _, there in music],
        ),
        looks=pool([tuple(Seen(p.kind) for p in s.performers if p.seen) for s in played], 10, 100000, scenes=played),
        tones=pool([tuple(Heard(p.kind, (), 0.1) for p in s.performers) for s in played], 10, 200000, scenes=played),
    )  # fmt: skip


POOLS = pools()


def shown(tokens, sort):
    """Item by item who is there: what the numbers in the tokens stand for."""
    where, items = (POOLS.videos, 10) if sort == "videos" else (getattr(POOLS, sort), lm.WINDOWS)
    numbers = tokens[:, 0, 0].astype(int) - int(where.tokens[0, 0, 0, 0])
    return [
        {x.kind for x, here in zip(where.who[n // items], where.there[n // items][n % items]) if here} for n in numbers
    ]


def lessons_of(*names, count=40):
    found, drawn = {name: [] for name in names}, tq.tasks(np.random.default_rng(1), POOLS)
    while min(map(len, found.values())) < count:
        lesson = next(drawn)
        if lesson.sort in found:
            found[lesson.sort].append(lesson)
    return [lesson for some in found.values() for lesson in some]


def test_choices_of_everybody_occur():
    for count, seconds in ((1, 10), (2, 10), (3, 10), (4, 16)):
        there = lm.turns(np.random.default_rng(count), count, seconds)
        assert there.shape == (seconds, count)
        assert len({tuple(row) for row in there.tolist()}) == 2**count


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


def drawn(seed, *, rows, tasks, words=0.0):
    some = lr.lessons(np.random.default_rng(seed), POOLS, of_tasks=tasks, of_words=words)
    return lr.Rows(some, tokenizer=Tokenizer.tiny(), rows=rows, queries=4, width=160)


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


def test_a_state_that_is_a_code_is_right():
    rows = drawn(2, rows=4, tasks=0.7)
    kinds_of = lambda b, g: (b.mask_segment > 0, g.numbers[..., 0] >= 0, g.numbers[..., 4] >= 0, g.weights == 8)  # noqa: E731
    batch, given = next((b, g) for b, g in rows if all(x.any() for x in kinds_of(b, g)))
    many = given.marked.sum(-1, keepdims=True)
    code = np.where(many > 0, given.marked @ codes(160) / np.sqrt(np.maximum(many, 1)), nobody(160))
    ids, kinds, vocabulary = CONFIG.token_ids, len(NAMES), CONFIG.llama.vocab_size

    def told(turn, early, heads, later=None):
        """Somebody who says exactly the code at every mask, or that of somebody else."""
        states = np.zeros((*batch.tokens.shape, 160), np.float32)
        at = np.asarray(mask_positions(batch, ids))
        for row, place in zip(*np.nonzero(batch.mask_segment)):
            states[row, at[row, place]] = np.roll(code[row, place], turn)
        said = ll.Said(
            jnp.asarray(states), jnp.zeros((*batch.tokens.shape, vocabulary)), early, early if later is None else later
        )
        return ll.losses(said, heads, batch, given, ids)

    early = np.zeros((*batch.tokens.shape, 160), np.float32)
    heads = {
        "moment": np.zeros((160, 10), np.float32),
        "facts": np.zeros((160, 3 * kinds), np.float32),
        "stories": np.zeros((160, 5 * kinds), np.float32),
        "places": np.zeros((160, 5 * (1 + kinds)), np.float32),
        "numbers": np.zeros((160, 4 * 28 + 2 * 11), np.float32),
        "cast": np.zeros((160, 2 * kinds), np.float32),
    }
    blind = told(0, early, heads)
    assert blind.stand == (given.places > 0).sum() > 0
    assert float(blind.nll / blind.count) == pytest.approx(np.log(vocabulary), rel=1e-5)
    assert float(blind.weighted / blind.weights) == pytest.approx(np.log(vocabulary), rel=1e-5)
    assert float(blind.count) < float(blind.weights) == pytest.approx(given.weights.sum())
    assert blind.decides == (given.weights == 8).sum() > blind.decided == 0
    assert (float(blind.off), float(blind.masks)) == (0, (batch.mask_segment > 0).sum())
    assert float(blind.right) == float(blind.alone) > 0
    other = told(1, early, heads)
    assert float(other.off / other.masks) > 1
    assert float(other.right) < float(other.alone)
    assert blind.items == (given.moment >= 0).sum()
    assert blind.places == (given.numbers.max(-1) >= 0).sum() > 0
    assert blind.sure == ((batch.labels >= 0) & (given.cast.max(-1) == 0)).sum() < blind.count
    boxes, intervals = ((given.numbers[..., part] >= 0).sum() for part in (slice(0, 4), slice(4, 6)))
    assert float(blind.missed) == pytest.approx(boxes * np.log(28) + intervals * np.log(11), rel=1e-5)

    # States that spell moment and facts out, and heads that read just this.
    for row, item in zip(*np.nonzero(given.moment >= 0)):
        early[row, given.last[row, item], given.moment[row, item]] = 20
        early[row, given.last[row, item], 10 : 10 + 3 * kinds] = 20 * given.facts[row, item]
    heads["moment"][:10] = np.eye(10)
    heads["facts"][10 : 10 + 3 * kinds] = np.eye(3 * kinds)
    # The same for the numbers of answers: the box's first edge in one place, the interval's end in another.
    spelt = np.zeros((*batch.tokens.shape, 160), np.float32)
    for row, place in zip(*np.nonzero(given.numbers.max(-1) >= 0)):
        box, interval = given.numbers[row, place, 0], given.numbers[row, place, 5]
        if box >= 0:
            spelt[row, place, box] = 4
        if interval >= 0:
            spelt[row, place, 30 + interval] = 4
    heads["numbers"][:28, :28] = np.eye(28)
    heads["numbers"][30:41, 4 * 28 + 11 :] = np.eye(11)
    spells = told(0, early, heads, spelt)
    assert spells.knows == blind.items
    assert float(spells.clock) < float(blind.clock) - 2 * float(blind.items)
    others = given.numbers[..., [1, 2, 3, 4]]
    assert float(spells.misses) == pytest.approx(float(others[others >= 0].sum())), "what is not read is taken for 0"
    assert float(spells.missed) < float(blind.missed)

    # And for who is the second from the left, and what all moments so far say: the latter off the later states.
    spelt[:], early[:] = 0, 0
    for row, item in zip(*np.nonzero(given.moment >= 0)):
        if given.places[row, item, 1] >= 0:
            early[row, given.last[row, item], given.places[row, item, 1]] = 20
        spelt[row, given.last[row, item], : 5 * kinds] = 20 * given.stories[row, item]
    heads["places"][: 1 + kinds, 1 + kinds : 2 * (1 + kinds)] = np.eye(1 + kinds)
    heads["stories"][: 5 * kinds] = np.eye(5 * kinds)
    spells = told(0, early, heads, spelt)
    assert float(spells.found) == (given.places[..., 1] > 0).sum() > 0
    assert float(spells.known) == 5 * float(blind.items)

    # And for everybody that is seen or heard, at every place of an answer.
    spelt[..., : 2 * kinds] = 20 * given.cast
    heads["cast"][: 2 * kinds] = np.eye(2 * kinds)
    spells = told(0, early, heads, spelt)
    assert spells.sure == spells.count == blind.count
    assert float(spells.unsure) < float(blind.unsure)


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


def test_numbers_of_answers():
    corners = "Its coordinate of top left corner is ({},{}) and coordinate of bottom right corner is ({},{})"
    assert lr._numbers(f"The drum: {corners.format(0, 9, 223, 224)}") == [0, 1, 27, 27, -1, -1]
    assert lr._numbers("and the time range is <range> 2,10 </range>.") == [-1, -1, -1, -1, 2, 10]
    assert lr._numbers(f"{corners.format(1, 2, 3, 4)}. {corners.format(5, 6, 7, 8)}") == [-1] * 6, "which of them?"
    asked, rng = {"arig": 0, "ave": 0}, drawn(4, rows=2, tasks=1.0)
    for batch, given in itertools.islice(rng, 8):
        said, told = batch.labels >= 0, given.numbers.max(-1) >= 0
        assert not (told & ~said).any(), "nothing is asked of places that predict nothing"
        asked["arig"] += (given.numbers[..., 0] >= 0).sum()
        asked["ave"] += (given.numbers[..., 4] >= 0).sum()
    assert all(asked.values())


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


def test_rows_together_are_what_they_are_one_by_one():
    """A batch is worked through row by row: sums add up, and are divided by what the whole batch holds."""
    rows = drawn(8, rows=3, tasks=0.7)
    batch, given = next(iter(rows))
    vocabulary, kinds, width = CONFIG.llama.vocab_size, len(NAMES), 160
    key = jax.random.split(jax.random.key(0), 9)
    states, early, later = (jax.random.normal(k, (*batch.tokens.shape, width)) for k in key[:3])
    sizes = {"moment": 10, "facts": 3 * kinds, "stories": 5 * kinds, "places": 5 * (1 + kinds), "cast": 2 * kinds}
    sizes["numbers"] = sum(lr.STEPS_OF)
    heads = {name: jax.random.normal(k, (width, n)) / 13 for k, (name, n) in zip(key[3:], sizes.items())}
    said = ll.Said(states, states @ jax.random.normal(key[8], (width, vocabulary)), early, later)
    whole = ll.losses(said, heads, batch, given, CONFIG.token_ids)
    one = [jax.tree.map(lambda x, r=r: x[r : r + 1], (said, batch, given)) for r in range(3)]
    added = [ll.losses(s, heads, b, g, CONFIG.token_ids) for s, b, g in one]
    for name, together, *apart in zip(ll.Told._fields, whole, *added):
        assert float(together) == pytest.approx(sum(map(float, apart)), rel=1e-4), name
    for name, size in ll.sizes(batch, given)._asdict().items():
        assert float(size) == max(float(getattr(whole, name)), 1), name


def test_what_an_answer_turns_on_counts_most():
    tokenizer = Tokenizer.tiny()
    answer = "I hear a cello from 3 to 60 seconds. So the answer is <answer> two </answer>."
    pieces, weights = tokenizer.tokenize(f"{answer}</s>"), lr._weights(tokenizer, answer)
    assert len(weights) == len(tokenizer.encode_target(answer)) == len(pieces)
    by = {value: "".join(p for p, w in zip(pieces, weights) if w == value).replace("\u2581", " ") for value in (2, 8)}
    assert by[8].strip() == "two"
    assert re.sub("[^a-z0-9]", "", by[2]) == "cello360"
    for name in sorted(lr.CALLED):
        named = f"It is {name}, <event> {name} </event>"
        told = "".join(p for p, w in zip(tokenizer.tokenize(f"{named}</s>"), lr._weights(tokenizer, named)) if w == 2)
        assert told.replace("\u2581", "").startswith(name.replace(" ", "")), "as it is called, brackets and all"
    masked = f"The cello is {MASK_RUN}."
    assert len(lr._weights(tokenizer, masked)) == len(tokenizer.encode_target(masked))
    assert set(lr._weights(tokenizer, MASK_RUN)) == {1.0}, "a text that begins with a tag has no mark in front"
    for batch, given in itertools.islice(drawn(7, rows=2, tasks=0.9), 4):
        np.testing.assert_array_equal(given.weights > 0, batch.labels >= 0)


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
        names = [kind.names["avqa"] for kind in KINDS.values() if "avqa" in kind.names]
        nouns = {kind.names["avqa"]: kind.noun for kind in KINDS.values() if "avqa" in kind.names}
        for name in names:
            if re.search(rf"\b{name}\b", left):
                assert name in f"{lesson.prompt} {given}" or nouns[name] in given, lesson
        answer = TASKS["avqa"].parse(lesson.target).answer
        if lesson.prompt.endswith("heard but not seen?"):
            assert (answer == "yes") == ("cannot be seen." in left), lesson
            asked.add(answer)
        if lesson.prompt.endswith("sounding in the video?"):
            heard = 0 if "Nobody" in left else len(re.findall("the ", left.partition(" on the stage")[0].lower()))
            assert phrases.NUMBERS[heard] == answer, lesson
            asked.add(answer)
        if "sound from beginning to end" in lesson.prompt:
            silent = 0 if "All that" in left else len(re.findall("the ", left.partition(" cannot be")[0].lower()))
            assert phrases.NUMBERS[silent] == answer, lesson
        if pair := re.search("Is the (\\w+) playing longer than the (\\w+)", lesson.prompt):
            assert (answer == "yes") == (f"The {pair[1]} plays longer than the {pair[2]}." in left)
        if pair := re.search("Is the (\\w+) louder than the (\\w+)", lesson.prompt):
            first, second = (given.find(nouns[name]) for name in pair.groups())
            assert (answer == "yes") == (first < second), "the loudest comes first"
        if lesson.prompt.startswith(("Please answer this question: Is there a ", "Please answer this question: Does a ")):
            assert (answer == "yes") == ("is among them" in left) == ("not among" not in left) or "outside" in lesson.prompt
        if "instrument of the" in lesson.prompt:
            assert answer == next(name for name, noun in nouns.items() if left.split("So the")[0].endswith(f"is the {noun}. "))
    assert {"yes", "no", "one", "two"} <= asked


def test_what_is_given_is_not_learned():
    rows = lr.Rows(
        lr.lessons(np.random.default_rng(1), None, of_tasks=0.7, of_words=1.0),
        tokenizer=Tokenizer.tiny(), rows=2, queries=4, width=160,
    )  # fmt: skip
    batch, given = next(iter(rows))
    said = batch.labels >= 0
    assert (given.moment == -1).all()
    assert (given.seen == 0).all()
    assert (given.cast[said] == -1).all(), "nobody can know who is there"
    counted = given.weights[said] > 0
    assert 0.2 < counted.mean() < 0.8
    vocabulary, width = CONFIG.llama.vocab_size, 160
    states = jax.numpy.zeros((*batch.tokens.shape, width))
    wrong = jax.nn.one_hot(jax.numpy.where(given.weights > 0, batch.labels, 0), vocabulary) * 50
    told = ll.losses(ll.Said(states, wrong, states, states), ll.blank_heads(width), batch, given, CONFIG.token_ids)
    assert float(told.nll) < 1e-3, "whatever is said where something is given"
    assert float(told.count) == counted.sum()
    assert (float(told.unsure), float(told.sure), float(told.items)) == (0, 0, 0)
    sorts = [lesson.sort for lesson in itertools.islice(
        lr.lessons(np.random.default_rng(1), POOLS, of_tasks=0.7, of_words=0.3), 300
    )]  # fmt: skip
    assert 60 < sorts.count("conclusion") < 120


@pytest.mark.slow
def test_what_is_written_starts_a_stage(tmp_path):
    wanted = abstract(CONFIG)
    rng = np.random.default_rng(0)
    names = {"clip": "eye", "beats": "ear", "vl_projector": "vl_projector", "al_projector": "al_projector"}
    for part, name in names.items():
        here = {p: x for p, x in wanted.items() if p.startswith(f"{part}/")}
        write(
            tmp_path / f"{name}.safetensors", {p: rng.normal(0, 0.05, x.shape).astype(x.dtype) for p, x in here.items()}
        )
    sizes = ["--stills", "8", "--videos", "2", "--sounds", "8", "--music", "8", "--concerts", "8", "--steps", "3"]
    sizes += ["--rows", "1", "--log-every", "1"]
    out = tmp_path / "language.safetensors"
    pl.main(["--parts", str(tmp_path), "--out", str(out), *sizes])
    given = handed_on(newest_checkpoint(out))
    speaks = {p: x.shape for p, x in wanted.items() if p.startswith("llama/") and "/lora_" not in p}
    assert {p: x.shape for p, x in given.items()} == speaks
    pl.main(["--out", str(out), "--words", "1", "--rows", "2", "--steps", "1", "--start", str(out)])
    assert {p: x.shape for p, x in handed_on(newest_checkpoint(out)).items()} == speaks
    (tmp_path / "eye.safetensors").unlink()
    with pytest.raises(SystemExit):
        pl.main(["--parts", str(tmp_path), "--out", str(out), *sizes])
    with pytest.raises(SystemExit):
        pl.main(["--out", str(out), *sizes])


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
            *(pool([], 1) for _ in range(3)),
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
