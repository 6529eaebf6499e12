"""How examples become rows of a batch, and what the network makes of rows of another height."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config, tiny_params

from crab_jax.backbones.beats import Beats
from crab_jax.backbones.qformer import QFormer
from crab_jax.batch import BatchError, Example, TokenIds, lay_out
from crab_jax.config import ConfigError
from crab_jax.layout import Layout
from crab_jax.model import Crab, CrabConfig
from crab_jax.params import nest, subtree

IDS = TokenIds.after(40)
LAYOUT = Layout(tokens=12, frames=2, windows=2, patch_rows=3, masks=1)


def laid_out(*examples, layout=LAYOUT, patch=16):
    return lay_out(examples, layout=layout, ids=IDS, image_size=4, frame_tokens=2, window_tokens=3, patch=patch)


def test_rows_are_padded_on_the_left_and_labels_are_shifted():
    picture = np.ones((1, 4, 4, 3), np.uint8)
    full = Example(name="a", prompt=[1, 7, 40, 40], target=[8, 9, 2], frames=picture, mask=np.ones((4, 4), np.uint8))
    batch = laid_out(full, Example(name="b", prompt=[1, 5]))
    assert batch.tokens[0].tolist() == [2] * 5 + [1, 7, 40, 40, 8, 9, 2]
    assert batch.labels[0].tolist() == [-1] * 8 + [8, 9, 2] + [-1]
    assert batch.segment.sum(axis=1).tolist() == [7, 2]
    assert batch.position[1].tolist() == [0] * 10 + [0, 1]
    assert (batch.labels[1] == -1).all()
    assert batch.frame_segment.tolist() == [[1, 0], [0, 0]]
    assert batch.mask_segment.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example(name="x", prompt=[1] * 13), "x: 13 tokens, the layout holds 12"),
        (Example(name="x", prompt=[40]), "x: 1 placeholder tokens for frames, but 0 frames of 2 tokens each"),
        (Example(name="x", prompt=[1], fbank=np.zeros((1, 16, 128))), "0 placeholder tokens for audio windows, but 1"),
        (
            Example(name="x", prompt=[46] * 3, fbank=np.zeros((1, 64, 128), np.float32)),
            "x: 4 patch rows, the layout holds 3",
        ),
    ],
)
def test_what_does_not_fit_is_named(example, message):
    with pytest.raises(BatchError, match=message):
        laid_out(example)


@pytest.mark.parametrize("patch", [8, 16, 32])
def test_patches_of_any_height(patch):
    """Windows of two lengths in one batch give what each gives alone, whatever the patch size of BEATs is."""
    c = tiny_config()
    beats = dataclasses.replace(c.beats, input_patch_size=patch)
    config = CrabConfig(beats=beats, al_projector=c.al_projector)
    params = {k: v for k, v in tiny_params().items() if k.startswith(("beats/", "al_projector/"))}
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(patch, patch, 1, beats.embed_dim)) / patch
    params["beats/patch_embed/kernel"] = kernel.astype(np.float32)
    wide, short = (rng.normal(size=(1, frames, 128)).astype(np.float32) for frames in (98, 50))
    layout = Layout(tokens=3, frames=0, windows=1, patch_rows=98 // patch, masks=0)
    batch = laid_out(
        *(Example(name="w", prompt=[IDS.audio] * 3, fbank=x) for x in (wide, short)), layout=layout, patch=patch
    )
    with jax.default_matmul_precision("highest"):
        got = jax.jit(lambda p, x, rows: Crab(config, jnp.float32).apply(p, x, rows, method="encode_windows"))(
            {"params": nest(params)}, batch.fbank[:, 0], batch.patch_rows[:, 0]
        )
        for row, window in enumerate((wide, short)):
            states = Beats(beats).apply({"params": nest(subtree(params, "beats"))}, window)
            alone = QFormer(c.al_projector).apply({"params": nest(subtree(params, "al_projector"))}, states)
            np.testing.assert_allclose(got[row], alone[0], atol=2e-5)


def test_the_mask_decoder_reads_the_mask_tokens_that_there_are():
    c = tiny_config()
    with pytest.raises(ConfigError, match="8 mask tokens, the vocabulary has 6"):
        dataclasses.replace(c, mask_decoder=dataclasses.replace(c.mask_decoder, tokens_per_level=4))
