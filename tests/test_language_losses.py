"""What the language model of crab-mini is told about what it says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_pools import CONFIG, POOLS, drawn

from crab_jax.model import mask_positions
from crab_jax.tokens import Tokenizer
from launch import language_losses as ll
from launch import language_rows as lr
from launch.part_lessons import codes, nobody
from launch.part_scenes import NAMES


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
        "numbers": np.zeros((160, sum(lr.STEPS_OF)), np.float32),
        "cast": np.zeros((160, lr.CAST), np.float32),
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
    several = [(given.numbers[..., part] >= 0).sum() for part in (slice(0, 4), slice(4, 6), slice(6, 8))]
    assert all(several)
    assert float(blind.missed) == pytest.approx(np.dot(several, np.log([28, 11, 61])), rel=1e-5)

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
    heads["numbers"][30:41, 4 * 28 + 11 : 4 * 28 + 22] = np.eye(11)
    spells = told(0, early, heads, spelt)
    assert spells.knows == blind.items
    assert float(spells.aware) == 3 * float(blind.items) > float(blind.aware)
    assert float(spells.clock) < float(blind.clock) - 2 * float(blind.items)
    others = given.numbers[..., [1, 2, 3, 4, 6, 7]]
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
    spelt[..., : lr.CAST] = 20 * given.cast
    heads["cast"][: lr.CAST] = np.eye(lr.CAST)
    spells = told(0, early, heads, spelt)
    assert spells.sure == spells.count == blind.count
    assert float(spells.unsure) < float(blind.unsure)

    # Whether it is outdoors is told of some only, and nothing else depends on it.
    setting = given.cast[..., -1]
    setting[setting >= 0] = 1
    spelt[..., lr.CAST - 1] = 20
    right = told(0, early, heads, spelt)
    heads["cast"][lr.CAST - 1] = 0
    wrong, count = told(0, early, heads, spelt), ((batch.labels >= 0) & (setting == 1)).sum()
    assert wrong.count - wrong.sure == count > 0
    # Without a word of it the odds are e⁻³; it counts as much as five kinds.
    rise = 5 * (np.log1p(np.exp(3)) - np.log1p(np.exp(-17))) * count
    assert float(wrong.unsure) - float(right.unsure) == pytest.approx(rise, rel=1e-4)


def test_rows_together_are_what_they_are_one_by_one():
    """A batch is worked through row by row: sums add up, and are divided by what the whole batch holds."""
    rows = drawn(8, rows=3, tasks=0.7)
    batch, given = next(iter(rows))
    vocabulary, kinds, width = CONFIG.llama.vocab_size, len(NAMES), 160
    key = jax.random.split(jax.random.key(0), 9)
    states, early, later = (jax.random.normal(k, (*batch.tokens.shape, width)) for k in key[:3])
    sizes = {"moment": 10, "facts": 3 * kinds, "stories": 5 * kinds, "places": 5 * (1 + kinds), "cast": lr.CAST}
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
    assert 60 < sum(sort.startswith("conclusion ") for sort in sorts) < 120
