"""What holds for every encoder: types of numbers."""

import encoder_models
import jax
import jax.numpy as jnp
import numpy as np
from encoder_models import F32, SMALL, TINY, compiled, random_params, shapes

from crab_jax.backbones.beats import Beats
from crab_jax.backbones.clip import Clip, ClipConfig
from crab_jax.backbones.qformer import QFormer

exact_matmuls = encoder_models.exact_matmuls  # a fixture of every test here


def test_bfloat16_is_close_and_stays_bfloat16():
    """The compute type reaches every output; parameters stay float32."""
    rng = np.random.default_rng(0)
    tower = dict(image_size=28, patch_size=7, hidden_size=24, intermediate_size=32, num_layers=2, num_heads=2)
    tower = ClipConfig(**tower, layer_norm_eps=1e-5, hidden_act="quick_gelu", taps=(2,))
    cases = [
        (Clip, tower, rng.normal(size=(1, 28, 28, 3))),
        (Beats, TINY, rng.normal(size=(1, 48, 128))),
        (QFormer, SMALL, rng.normal(size=(2, 6, SMALL.encoder_width))),
    ]
    for module, config, x in cases:
        x = jnp.asarray(x, F32)
        assert all(leaf.dtype == jnp.float32 for leaf in shapes(module(config, jnp.bfloat16), *x.shape).values())
        params = random_params(module(config), *x.shape)
        exact = jax.tree.leaves(compiled(module(config))(params, x))[0]
        short = jax.tree.leaves(compiled(module(config, jnp.bfloat16))(params, x))[0]
        assert exact.dtype == jnp.float32
        assert short.dtype == jnp.bfloat16
        assert np.abs(exact - short).max() < 0.05 * np.abs(exact).max() + 0.05, module.__name__
