"""CLIP against transformers, at its published size, and its config and weight table."""

import encoder_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_models import CLOSE, arrays, check_table, compiled, names, shapes, shuffle
from torch_weights import load

from crab_jax import params as flat
from crab_jax.backbones import clip
from crab_jax.backbones.clip import Clip, ClipConfig
from crab_jax.config import ConfigError

torch = pytest.importorskip("torch")

exact_matmuls = encoder_models.exact_matmuls  # a fixture of every test here

CLIP_LARGE = {  # as published: both dicts are there and agree
    "model_type": "clip",
    "vision_config": {
        "hidden_act": "quick_gelu",
        "hidden_size": 1024,
        "image_size": 224,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "vision_config_dict": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}


def hf_names(tensors):
    """Newer transformers drop the prefix that published files have."""
    return {n if n.startswith("vision_model.") else f"vision_model.{n}": x for n, x in tensors.items()}


@pytest.mark.parametrize(("taps", "act"), [((2, 3, 4), "quick_gelu"), ((3, 0, 3), "gelu"), ((1,), "gelu")])
def test_clip_equals_transformers(taps, act):
    transformers = pytest.importorskip("transformers")
    original = transformers.CLIPVisionConfig(
        image_size=31,  # two rows of pixels fill no patch
        patch_size=7,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=3,
        hidden_act=act,
        layer_norm_eps=1e-2,
    )
    theirs = shuffle(transformers.CLIPVisionModel(original))
    config = clip.config_from_original(original.to_dict(), taps=taps)
    assert config.layer_norm_eps == 1e-2
    assert config.patches == 16
    params = load(clip.weight_table(config), hf_names(arrays(theirs)))
    assert params["layers/up/kernel"].shape == (max(taps), 24, 40)

    pixels = np.random.default_rng(0).normal(size=(2, 31, 31, 3)).astype(np.float32)
    with torch.no_grad():
        given = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
        expected = theirs(pixel_values=given, output_hidden_states=True).hidden_states
    params = {"params": flat.nest(params)}
    out, states = compiled(Clip(config), capture=True)(params, pixels)
    assert len(out) == len(taps)
    for tap, features in zip(taps, out, strict=True):
        np.testing.assert_allclose(features, expected[tap][:, 1:], **CLOSE)
    for state, other in zip(states, expected[: max(taps) + 1], strict=True):
        np.testing.assert_allclose(state, other, **CLOSE)
    for features, same in zip(compiled(Clip(config))(params, pixels), out, strict=True):
        np.testing.assert_allclose(features, same, rtol=1e-6, atol=1e-6)


def test_clip_published_size():
    config = clip.config_from_original(CLIP_LARGE, taps=(14, 22, 23))
    tree = shapes(Clip(config), 1, 224, 224, 3)
    table = clip.weight_table(config)
    check_table(table, tree)
    block = flat.count({p: x for p, x in tree.items() if p.startswith("layers/")}) // 23
    assert len(names(table)) == 391 - 16 - 2  # all but block 24 and the norm behind it
    assert flat.count(tree) == 303_179_776 - block - 2 * 1024
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CLIP_LARGE["vision_config"]))
    published = hf_names({n: x for n, x in theirs.named_parameters()})
    assert set(names(table)) < set(published)
    assert all(table.why_ignored(name) for name in set(published) - set(names(table)))
    assert sum(x.numel() for x in published.values()) == 303_179_776


def test_clip_table_is_strict_about_blocks():
    config = clip.config_from_original(CLIP_LARGE, taps=(1, 22))
    table = clip.weight_table(config)
    assert not table.why_ignored("vision_model.encoder.layers.21.mlp.fc1.weight")
    assert table.why_ignored("vision_model.encoder.layers.22.mlp.fc1.weight")
    assert table.why_ignored("vision_model.encoder.layers.23.mlp.fc1.weight")
    assert not table.why_ignored("vision_model.encoder.layers.24.mlp.fc1.weight")
    for name in ("text_model.final_layer_norm.bias", "logit_scale", "visual_projection.weight"):
        assert table.why_ignored(name)


def test_clip_config_takes_hf_defaults():
    sparse = {"model_type": "clip", "vision_config": {"num_hidden_layers": 3}}
    assert clip.config_from_original(sparse, taps=(2,)) == ClipConfig(
        image_size=224,
        patch_size=32,
        hidden_size=768,
        intermediate_size=3072,
        num_layers=3,
        num_heads=12,
        layer_norm_eps=1e-5,
        hidden_act="quick_gelu",
        taps=(2,),
    )
    only_dict = {"model_type": "clip", "vision_config": None, "vision_config_dict": {"patch_size": 14}}
    assert clip.config_from_original(only_dict, taps=(12,)).patches == 256


@pytest.mark.parametrize(
    ("change", "taps", "word"),
    [
        ({"hidden_act": "silu"}, (2,), "hidden_act"),
        ({"num_channels": 4}, (2,), "num_channels"),
        ({"attention_dropout": 0.1}, (2,), "attention_dropout"),
        ({"model_type": "siglip_vision_model"}, (2,), "siglip"),
        ({"hidden_size": 50, "num_attention_heads": 3}, (2,), "num_heads"),
        ({}, (2, 13), "taps"),
        ({}, (), "taps"),
        ({}, (-1, 3), "taps"),
    ],
)
def test_clip_config_refuses(change, taps, word):
    with pytest.raises(ConfigError, match=word):
        clip.config_from_original({"model_type": "clip_vision_model"} | change, taps=taps)


def test_clip_config_refuses_contradictions():
    original = CLIP_LARGE | {"vision_config_dict": {"hidden_size": 1024}}
    with pytest.raises(ConfigError, match="vision_config_dict"):
        clip.config_from_original(original, taps=(1,))
    with pytest.raises(ConfigError, match="vision_config"):
        clip.config_from_original({"model_type": "clip"}, taps=(1,))


def test_normalise():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    ours = jax.jit(clip.normalise)(frames)
    assert ours.dtype == jnp.float32
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(ours, (frames / 255.0 - mean) / std, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="uint8"):
        clip.normalise(frames / 255.0)
