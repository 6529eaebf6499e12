"""What the network makes of packed rows: the same as of the same examples one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config, tiny_params

from crab_jax.batch import BatchError, Example, TokenIds, lay_out, pack
from crab_jax.layout import Layout
from crab_jax.model import Crab, loss_sums, mask_positions
from crab_jax.params import nest, split

IDS = TokenIds.after(40)
SMALL = Layout(tokens=16, frames=3, windows=2, patch_rows=3, masks=2)
HEADS = ("binary", "semantic")


def small(name, *, prompt, target=(), frames=0, unplaced=0, mask=None, mask_frame=0):
    pictures = np.full((frames, 4, 4, 3), ord(name), np.uint8) + np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return Example(
        name=name, prompt=prompt, target=target, frames=pictures if frames else None, unplaced=unplaced,
        mask=None if mask is None else np.full((4, 4), mask, np.uint8), mask_frame=mask_frame,
    )  # fmt: skip


def packed(*rows, layout=SMALL):
    return pack(rows, layout=layout, ids=IDS, image_size=4, frame_tokens=2, window_tokens=3, patch=16)


def test_segments_stand_side_by_side():
    a = small("a", prompt=[1, 40, 40, 7], target=[8, 2], frames=1)
    b = small("b", prompt=[1, 5], target=[9, 2])
    batch = packed([a, b], [b], [])
    assert batch.tokens[0].tolist() == [1, 40, 40, 7, 8, 2, 1, 5, 9, 2] + [2] * 6
    assert batch.segment[0].tolist() == [1] * 6 + [2] * 4 + [0] * 6
    assert batch.position[0].tolist() == [*range(6), *range(4)] + [0] * 6
    assert batch.labels[0].tolist() == [-1] * 3 + [8, 2] + [-1] * 2 + [9, 2] + [-1] * 7
    assert batch.segment[1:].sum(axis=1).tolist() == [4, 0]
    assert batch.frame_segment.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_pictures_without_placeholder_stand_behind_the_others():
    """The n-th placeholder gets the n-th picture, so a picture that is only segmented must not stand between."""
    a = small("a", prompt=[1, 7], frames=1, unplaced=1, mask=1, mask_frame=0)
    b = small("b", prompt=[40, 40, 40, 40], frames=2, mask=2, mask_frame=1)
    batch = packed([a, b])
    assert batch.frame_segment[0].tolist() == [2, 2, 1]
    assert batch.frames[0, :, 0, 0, 0].tolist() == [ord("b"), ord("b") + 1, ord("a")]
    assert batch.mask_segment[0].tolist() == [1, 2]
    assert batch.mask_frame[0].tolist() == [2, 1]
    assert batch.masks[0, :, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([small("a", prompt=[1] * 9), small("b", prompt=[1] * 8)], "a, b: 17 tokens, the layout holds 16"),
        ([small("a", prompt=[40] * 4, frames=2), small("b", prompt=[40] * 4, frames=2)], "a: 4 frames|b: 4 frames"),
        ([small("a", prompt=[40] * 2)], "a: 2 placeholder tokens for frames, but 0 frames"),
        (
            [small(n, prompt=[40] * 2, frames=1, mask=1) for n in "abc"],
            "a, b, c: 3 masks, the layout holds 2",
        ),
    ],
)
def test_what_does_not_fit_together(examples, message):
    with pytest.raises(BatchError, match=message):
        packed(examples)


# ----------------------------------------------------------------------------------------------- with the network


def example(i: int, *, frames: int, windows: int, masks: bool = False, semantic: bool = False, image: bool = True):
    """One example of the tiny model, with random media and text; `image`: whether the last picture is in the prompt."""
    c = tiny_config()
    ids, q, w, s = c.token_ids, c.vl_projector.num_queries, c.al_projector.num_queries, c.clip.image_size
    rng = np.random.default_rng(i)
    text = lambda n: rng.integers(3, 60, n).tolist()  # noqa: E731
    shown = frames - (not image)
    prompt = [1, *text(2), *[ids.visual[1]] * (q * shown), *text(1), *[ids.audio] * (w * windows), *text(3)]
    return Example(
        name=f"example {i}",
        prompt=prompt,
        target=[*text(2 + i), *(ids.masks if masks else ()), 2],
        frames=rng.integers(0, 256, (frames, s, s, 3), np.uint8) if frames else None,
        unplaced=int(not image),
        fbank=rng.normal(size=(windows, 50 + 40 * (i % 2), 128)).astype(np.float32) if windows else None,
        mask=rng.integers(0, 71 if semantic else 2, (s, s), np.uint8) if masks else None,
        mask_frame=frames - 1,
        mask_semantic=semantic,
    )


EXAMPLES = [
    example(0, frames=2, windows=1),
    example(1, frames=1, windows=1, masks=True, image=False),
    example(2, frames=1, windows=2, masks=True, semantic=True),
    example(3, frames=0, windows=1),
    example(4, frames=2, windows=0, masks=True),
]


def arrange(rows, builder):
    c = tiny_config()
    layout = Layout(tokens=160, frames=6, windows=6, patch_rows=6, masks=4)
    sizes = c.feature_sizes
    return builder(
        rows, layout=layout, ids=c.token_ids, image_size=sizes.image_size, frame_tokens=sizes.frame_tokens,
        window_tokens=sizes.window_tokens, patch=sizes.patch,
    )  # fmt: skip


# Compiling takes longer than all the rest, so neither program is optimised, and both batches have one shape.
quickly = partial(
    jax.jit,
    static_argnames="model",
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


@quickly
def run(model, trained, frozen, batch):
    """Logits, sums of the losses, and gradients of the total with every loss divided once."""

    def loss(trained):
        forward = model.apply({"params": nest(trained | frozen)}, batch, heads=HEADS)
        sums = loss_sums(forward, batch)
        text, count = sums["text"]
        return text / count + sums["mask"][0], (forward.logits, sums, forward.mask_logits)

    grads, rest = jax.grad(loss, has_aux=True)(trained)
    return (*rest, grads)


@pytest.fixture(scope="module")
def both():
    """The same examples in two packed rows, and one per row."""
    model = Crab(tiny_config(), jnp.float32)
    trained, frozen = split(tiny_params(), ["vl_projector/.*", "al_projector/.*", "mask_decoder/.*", ".*lora.*"])
    batches = [arrange([EXAMPLES[:3], EXAMPLES[3:], [], [], []], pack), arrange(EXAMPLES, lay_out)]
    with jax.default_matmul_precision("highest"):
        return [(batch, run(model, trained, frozen, batch)) for batch in batches]


def test_logits_of_packed_rows(both):
    (rows, (ours, _, masks, _)), (padded, (theirs, _, expected, _)) = both
    for n, x in enumerate(EXAMPLES):
        b, segment = (0, n + 1) if n < 3 else (1, n - 2)
        one = ours[b][rows.segment[b] == segment]
        np.testing.assert_allclose(one, theirs[n][padded.segment[n] > 0], atol=2e-4)
        if x.mask is not None:
            m = rows.mask_segment[b].tolist().index(segment)
            head = "semantic" if x.mask_semantic else "binary"
            m_padded = np.asarray(expected[head]).reshape(5, 4, *expected[head].shape[1:])[n, 0]
            m_packed = np.asarray(masks[head]).reshape(5, 4, *masks[head].shape[1:])[b, m]
            np.testing.assert_allclose(m_packed, m_padded, atol=2e-3)


def test_losses_divide_once(both):
    (_, (_, ours, _, _)), (_, (_, theirs, _, _)) = both
    assert float(ours["text"][1]) == sum(len(x.target) for x in EXAMPLES) == float(theirs["text"][1])
    np.testing.assert_allclose(ours["text"][0], theirs["text"][0], rtol=1e-5)
    np.testing.assert_allclose(ours["mask"][0], theirs["mask"][0], rtol=1e-4)


def test_gradients_of_packed_rows(both):
    """Also in parts that see empty slots of the layout: nothing may come back from there."""
    (_, (*_, ours)), (_, (*_, theirs)) = both
    norm = np.sqrt(sum(float(jnp.sum(g * g)) for g in theirs.values()))
    assert np.isfinite(norm)
    assert norm > 0
    for path, g in theirs.items():
        np.testing.assert_allclose(ours[path], g, atol=1e-4 * norm, err_msg=path)


def test_mask_positions_of_segments(both):
    rows = both[0][0]
    at = np.asarray(mask_positions(rows, tiny_config().token_ids))
    for b in range(2):
        for m, segment in enumerate(rows.mask_segment[b]):
            if segment:
                assert rows.tokens[b, at[b, m] + 1].tolist() == list(tiny_config().token_ids.masks)
                assert (rows.segment[b, at[b, m]] == segment).all()


def test_attention_never_crosses_a_segment():
    """Other words, pictures and sounds in the first segment change nothing in the second."""
    model = Crab(tiny_config(), jnp.float32)
    variables = {"params": nest(tiny_params())}
    other = example(17, frames=2, windows=1)
    other = Example(**{**vars(other), "target": other.target[: len(EXAMPLES[0].target)]})
    logits = []
    forward = quickly(lambda v, batch: model.apply(v, batch).logits, static_argnames=())
    for first in (EXAMPLES[0], other):
        batch = arrange([[first, EXAMPLES[1]]], pack)
        logits.append(np.asarray(forward(variables, batch))[batch.segment == 2])
    np.testing.assert_allclose(*logits, atol=1e-5)
