"""Sizes, random weights and checks that the tests of CLIP, BEATs and the Q-Formers share."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crab_jax import params as flat
from crab_jax.backbones.beats import BeatsConfig
from crab_jax.backbones.qformer import QFormerConfig

torch = pytest.importorskip("torch")

CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32, a few layers of O(1) activations
F32 = jnp.float32

BEATS = BeatsConfig(  # published values, specification 4.4
    input_patch_size=16,
    embed_dim=512,
    conv_bias=False,
    encoder_layers=12,
    encoder_embed_dim=768,
    encoder_ffn_embed_dim=3072,
    encoder_attention_heads=12,
    activation_fn="gelu",
    layer_norm_first=False,
    deep_norm=True,
    conv_pos=128,
    conv_pos_groups=16,
    relative_position_embedding=True,
    num_buckets=320,
    max_distance=800,
    gru_rel_pos=True,
)
TINY = dataclasses.replace(
    BEATS,
    embed_dim=12,
    encoder_layers=3,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=20,
    encoder_attention_heads=3,
    conv_pos=10,
    conv_pos_groups=4,
    num_buckets=16,
    max_distance=30,
)

VISUAL = QFormerConfig(  # published values, specification 5.1
    encoder_width=1024,
    num_queries=32,
    hidden_size=768,
    num_heads=12,
    intermediate_size=3072,
    num_layers=2,
    cross_attention_freq=1,
    layer_norm_eps=1e-12,
    input_norm_eps=1e-5,
    hidden_act="gelu",
    dropout=0.1,
    out_features=4096,
    proj_depth=2,
    vocab_size=30522,
    max_positions=512,
)

SMALL = dataclasses.replace(
    VISUAL,
    encoder_width=10,
    num_queries=5,
    hidden_size=12,
    num_heads=3,
    intermediate_size=20,
    out_features=14,
    vocab_size=17,
    max_positions=9,
    layer_norm_eps=1e-2,
    input_norm_eps=1e-3,
)


@pytest.fixture(autouse=True)
def exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


def arrays(module):
    return {name: x.detach().numpy() for name, x in module.state_dict().items()}


def shuffle(module, seed=0):
    """Gives every tensor of a PyTorch module random values, so that no norm, bias or gate hides at 1 or 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in module.named_parameters():
            fan_in = x.shape[-1] if x.ndim > 1 else 10
            x.copy_(torch.randn(x.shape, generator=generator) / math.sqrt(fan_in) + ("norm" in name.lower()) * 1.0)
    return module.eval()


def shapes(model, *shape):
    """The parameters of a model as flat shapes, for a float32 input of this shape; nothing is allocated."""
    tree = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, F32))
    return flat.flatten(tree["params"])


def random_params(model, *shape, seed=0):
    """Random values for every parameter; compiling `init` costs more than running the model."""
    rng = np.random.default_rng(seed)
    tree = {path: rng.normal(path.endswith("scale"), 0.2, x.shape) for path, x in shapes(model, *shape).items()}
    return {"params": flat.nest({path: x.astype(np.float32) for path, x in tree.items()})}


def compiled(model, **static):
    """`model.apply` under jit: one compilation instead of one per operation."""
    return jax.jit(lambda params, *inputs: model.apply(params, *inputs, **static))


def check_table(table, tree):
    """The table has a rule for every parameter, counts and all."""
    assert {rule.path for rule in table.rules} == set(tree)
    for rule in table.rules:
        assert tree[rule.path].shape[: len(rule.counts)] == tuple(rule.counts.values()), rule.path


def names(table):
    return [key for rule in table.rules for _, key in rule.keys()]
