"""BEATs against PyTorch, against laws, and at its published size."""

import dataclasses
import math

import encoder_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_models import BEATS, CLOSE, F32, TINY, check_table, compiled, names, shapes
from torch_weights import load

from crab_jax import params as flat
from crab_jax.backbones import beats
from crab_jax.backbones.beats import Beats
from crab_jax.config import ConfigError

torch = pytest.importorskip("torch")

exact_matmuls = encoder_models.exact_matmuls  # a fixture of every test here

CFG = dataclasses.asdict(TINY) | dict.fromkeys(
    ("dropout", "attention_dropout", "activation_dropout", "dropout_input"), 0.0
)


def torch_buckets(tokens, num_buckets, max_distance):
    """The bucket function as T5 and its heirs write it, with PyTorch's float32 logarithm."""
    d = torch.arange(tokens)[None] - torch.arange(tokens)[:, None]
    half = num_buckets // 2
    exact = half // 2
    big = exact + (torch.log(d.abs().float() / exact) / math.log(max_distance / exact) * (half - exact)).to(torch.long)
    near = torch.where(d.abs() < exact, d.abs(), torch.minimum(big, torch.full_like(big, half - 1)))
    return (d > 0).to(torch.long) * half + near


def torch_beats(tensors, c, fbank):
    """BEATs as one plain function over PyTorch tensors, written from the formulas."""
    F = torch.nn.functional
    heads, width = c.encoder_attention_heads, c.encoder_embed_dim // c.encoder_attention_heads

    def lin(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def ln(x, name):
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)

    x = F.conv2d(
        fbank[:, None],
        tensors["patch_embedding.weight"],
        tensors.get("patch_embedding.bias"),
        stride=c.input_patch_size,
    )
    x = ln(x.flatten(2).transpose(1, 2), "layer_norm")
    if c.embed_dim != c.encoder_embed_dim:
        x = lin(x, "post_extract_proj")
    v, g = tensors["encoder.pos_conv.0.weight_v"], tensors["encoder.pos_conv.0.weight_g"]
    kernel = torch._weight_norm(v, g, 2)
    pos = F.conv1d(
        x.transpose(1, 2), kernel, tensors["encoder.pos_conv.0.bias"], padding=c.conv_pos // 2, groups=c.conv_pos_groups
    )
    pos = pos[..., : x.shape[1]].transpose(1, 2)
    x = x + F.gelu(pos)
    if not c.layer_norm_first:
        x = ln(x, "encoder.layer_norm")
    n = x.shape[1]
    if c.relative_position_embedding:
        table = tensors["encoder.layers.0.self_attn.relative_attention_bias.weight"]
        bias = table[torch_buckets(n, c.num_buckets, c.max_distance)].permute(2, 0, 1)
    act = {"gelu": F.gelu, "relu": F.relu}[c.activation_fn]

    def attn(x, name):
        q, k, v = (
            lin(x, f"{name}.{p}_proj").reshape(*x.shape[:2], heads, width).transpose(1, 2) for p in "qkv"
        )  # [A N n E]
        s = q @ k.transpose(2, 3) / math.sqrt(width)
        if c.relative_position_embedding and c.gru_rel_pos:
            r1, r2 = torch.sigmoid(lin(q, f"{name}.grep_linear").unflatten(-1, (2, 4)).sum(-1)).unbind(-1)
            gate = r1 * (r2 * tensors[f"{name}.grep_a"][..., 0] - 1) + 2
            s = s + gate[..., None] * bias
        elif c.relative_position_embedding:
            s = s + bias
        return lin((s.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.out_proj")

    alpha = (2 * c.encoder_layers) ** 0.25 if c.deep_norm else 1
    for i in range(c.encoder_layers):
        p = f"encoder.layers.{i}"
        if c.layer_norm_first:
            x = x + attn(ln(x, f"{p}.self_attn_layer_norm"), f"{p}.self_attn")
            x = x + lin(act(lin(ln(x, f"{p}.final_layer_norm"), f"{p}.fc1")), f"{p}.fc2")
        else:
            x = ln(alpha * x + attn(x, f"{p}.self_attn"), f"{p}.self_attn_layer_norm")
            x = ln(alpha * x + lin(act(lin(x, f"{p}.fc1")), f"{p}.fc2"), f"{p}.final_layer_norm")
    return ln(x, "encoder.layer_norm") if c.layer_norm_first else x


def random_tensors(table, tree, seed=0):
    """Random values for every name of the table, in the layout of the file."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for rule in table.rules:
        for index, key in rule.keys():
            shape = tree[rule.path].shape[len(index) :]
            fan_in = math.prod(shape[:-1]) or 1
            x = rng.normal(size=shape) / math.sqrt(fan_in) if len(shape) > 1 else rng.normal(1, 0.3, size=shape)
            tensors[key] = np.ascontiguousarray(rule.op.save(x.astype(np.float32)))
    return tensors


def tiny_beats(config, seed=0):
    """Parameters and tensors of a random model."""
    tree = shapes(Beats(config), 1, 32, 128)
    table = beats.weight_table(config)
    check_table(table, tree)
    tensors = random_tensors(table, tree, seed)
    params = load(table, tensors)
    assert {path: x.shape for path, x in params.items()} == {path: x.shape for path, x in tree.items()}
    return {"params": flat.nest(params)}, tensors


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"conv_bias": True, "activation_fn": "relu", "conv_pos": 7},
        {"layer_norm_first": True},
        {"deep_norm": False, "gru_rel_pos": False},
        {"relative_position_embedding": False, "embed_dim": 24},
    ],
    ids=lambda change: "-".join(change) or "published kind",
)
def test_beats_equals_torch(change):
    config = dataclasses.replace(TINY, **change)
    params, tensors = tiny_beats(config)
    fbank = np.random.default_rng(1).normal(size=(2, 59, 128)).astype(np.float32)
    expected = torch_beats({n: torch.from_numpy(x) for n, x in tensors.items()}, config, torch.from_numpy(fbank))
    out = compiled(Beats(config))(params, fbank)
    assert out.shape == (2, 24, config.encoder_embed_dim)
    np.testing.assert_allclose(out, expected, **CLOSE)


def test_beats_bias_matters():
    """The gate and the bias table move the result: a test against a second implementation would notice them."""
    params, _ = tiny_beats(TINY)
    fbank = np.random.default_rng(1).normal(size=(1, 48, 128)).astype(np.float32)
    run = compiled(Beats(TINY))
    before = run(params, fbank)
    for path in ("relative_bias", "layers/attn/gate_scale", "layers/attn/gate/kernel", "positions/g"):
        changed = flat.flatten(params["params"])
        changed[path] = changed[path] * 1.5
        assert np.abs(run({"params": flat.nest(changed)}, fbank) - before).max() > 1e-3, path


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_beats_padded_slot(layer_norm_first):
    """A window in a longer slot gives the states of the window alone, whatever stands behind it."""
    config = dataclasses.replace(TINY, layer_norm_first=layer_norm_first)
    params, _ = tiny_beats(config)
    fbank = np.random.default_rng(2).normal(size=(3, 98, 128)).astype(np.float32)
    rows = np.array([6, 2, 2], np.int32)
    run = compiled(Beats(config))
    out, unpadded, alone = run(params, fbank, rows), run(params, fbank), run(params, fbank[:, :32])
    mask = np.asarray(beats.token_mask(config, rows, 98))
    assert mask.sum(1).tolist() == [48, 16, 16]
    np.testing.assert_allclose(out[0], unpadded[0], **CLOSE)
    np.testing.assert_allclose(out[1:][mask[1:]], alone[1:].reshape(32, -1), **CLOSE)
    assert np.abs(out - unpadded)[1:, :16].max() > 1e-3  # without rows the rest of the slot is heard


def test_beats_empty_slot_is_finite():
    params, _ = tiny_beats(TINY)
    out = compiled(Beats(TINY))(params, jnp.zeros((2, 32, 128)), jnp.array([0, 2]))
    assert np.isfinite(out).all()


def test_beats_rejects_wrong_input():
    params, _ = tiny_beats(TINY)
    with pytest.raises(ValueError, match="A F 128"):
        Beats(TINY).apply(params, jnp.zeros((2, 32, 64)))
    with pytest.raises(ValueError, match="one of them"):
        Beats(TINY).apply(params, jnp.zeros((1, 32, 128)), jnp.array([1]), mask=jnp.ones((1, 16), bool))


def test_buckets():
    """Values written down in the specification, and every distance for other sizes as PyTorch rounds them."""
    buckets = beats.relative_buckets(1200, num_buckets=320, max_distance=800)
    for distance, bucket in [(1, 161), (-1, 1), (79, 239), (80, 240), (100, 247), (400, 295), (799, 319), (1199, 319)]:
        row, column = max(0, -distance), max(0, distance)
        assert buckets[row, column] == bucket
    for distance, bucket in [(0, 0), (80, 80), (400, 135), (800, 159)]:
        assert buckets[distance, 0] == bucket
    for sizes in [(320, 800), (320, 1280), (32, 128), (32, 40), (64, 512), (16, 30), (256, 100)]:
        ours = beats.relative_buckets(1000, num_buckets=sizes[0], max_distance=sizes[1])
        np.testing.assert_array_equal(ours, torch_buckets(1000, *sizes))


def test_beats_published_size():
    tree = shapes(Beats(BEATS), 1, 98, 128)
    table = beats.weight_table(BEATS)
    check_table(table, tree)
    predictor = 527 * 768 + 527
    assert table.why_ignored("predictor.weight")
    assert flat.count(tree) + predictor == 90_717_055
    assert tree["relative_bias"].shape == (320, 12)
    assert tree["positions/v"].shape == (128, 48, 768)
    assert tree["positions/g"].shape == (128,)
    assert len(names(table)) == 1 + 2 + 2 + 3 + 2 + 12 * (8 + 3 + 2 + 4 + 2) + 1
    (out,) = [jax.eval_shape(Beats(BEATS).apply, {"params": flat.nest(tree)}, jax.ShapeDtypeStruct((3, 198, 128), F32))]
    assert out.shape == (3, 96, 768)


def test_beats_config():
    irrelevant = {"encoder_layerdrop": 0.05, "layer_wise_gradient_decay_ratio": 0.6, "predictor_class": 527}
    assert beats.config_from_original(CFG | irrelevant) == TINY


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"activation_fn": "glu"}, "activation_fn"),
        ({"sample_rate": 8000}, "sample_rate"),
        ({"conv_pos": None}, "conv_pos"),
        ({"encoder_layers": "12"}, "encoder_layers"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"max_distance": 4}, "max_distance"),
    ],
)
def test_beats_config_refuses(change, word):
    with pytest.raises(ConfigError, match=word):
        beats.config_from_original(CFG | change)


@pytest.mark.parametrize("name", ["num_buckets", "deep_norm", "attention_dropout"])
def test_beats_config_has_no_defaults(name):
    with pytest.raises(ConfigError, match=name):
        beats.config_from_original({k: v for k, v in CFG.items() if k != name})
