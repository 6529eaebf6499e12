"""CLIP, BEATs and the Q-Formers against PyTorch, against laws, and at their published sizes."""

import dataclasses
import functools
import itertools
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import load

from crab_jax import params as flat
from crab_jax.backbones import beats, clip, qformer
from crab_jax.backbones.beats import Beats, BeatsConfig
from crab_jax.backbones.clip import Clip, ClipConfig
from crab_jax.backbones.qformer import QFormer, QFormerConfig
from crab_jax.config import ConfigError
from crab_jax.nn.dropout import Dropout

torch = pytest.importorskip("torch")

CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32, a few layers of O(1) activations
F32 = jnp.float32


@pytest.fixture(autouse=True)
def _exact_matmuls():
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


# --- CLIP -------------------------------------------------------------------------------------------------------------

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


# --- BEATs ------------------------------------------------------------------------------------------------------------

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


# --- Q-Former ---------------------------------------------------------------------------------------------------------

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
AUDIO = dataclasses.replace(VISUAL, encoder_width=768)
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


@pytest.mark.parametrize(("config", "kind", "total"), [(VISUAL, "visual", 73_553_978), (AUDIO, "audio", 72_767_034)])
def test_qformer_published_size(config, kind, total):
    tree = shapes(QFormer(config), 2, 256, config.encoder_width)
    table = qformer.weight_table(config, kind=kind)
    check_table(table, tree)
    assert len(names(table)) + len(table.unused) == 80
    unused = sum(math.prod(shape) for shape in table.unused.values())
    assert unused == 33_904_698
    assert flat.count(tree) + unused == total
    assert not set(names(table)) & set(table.unused)


def torch_qformer(config, seed=0):
    """The same projector from BLIP-2's Q-Former and two norms and linears, and its tensors under published names."""
    transformers = pytest.importorskip("transformers")
    body = transformers.Blip2QFormerModel(
        transformers.Blip2QFormerConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
            cross_attention_frequency=config.cross_attention_freq,
            encoder_hidden_size=config.encoder_width,
            attn_implementation="eager",
        )
    )
    body = shuffle(body, seed)
    norm = shuffle(torch.nn.LayerNorm(config.encoder_width, eps=config.input_norm_eps), seed + 1)
    sizes = [config.hidden_size] + [config.out_features] * config.proj_depth
    stages = []
    for a, b in itertools.pairwise(sizes):
        stages += [torch.nn.GELU(), torch.nn.Linear(a, b)]
    proj = shuffle(torch.nn.Sequential(*stages[1:]), seed + 2)
    queries = torch.randn(1, config.num_queries, config.hidden_size, generator=torch.Generator().manual_seed(seed))

    tensors = {"visual_query_tokens": queries.numpy()}
    tensors |= {f"visual_ln.{n}": x for n, x in arrays(norm).items()}
    tensors |= {f"visual_proj.{n}": x for n, x in arrays(proj).items()}
    for name, x in arrays(body).items():
        name = name.replace("attention.attention.", "attention.self.")
        if name.startswith("layernorm."):
            name = f"embeddings.LayerNorm.{name.split('.')[1]}"
        tensors["visual_Qformer.bert." + name] = x

    def run(features, mask=None):
        with torch.no_grad():
            x = body(
                query_embeds=queries.expand(len(features), -1, -1),
                encoder_hidden_states=norm(torch.from_numpy(features)),
                encoder_attention_mask=None if mask is None else torch.from_numpy(mask).long(),
            ).last_hidden_state
            return proj(x).numpy()

    return run, tensors


@pytest.mark.parametrize(
    ("layers", "freq", "depth", "act"),
    [(2, 1, 2, "gelu"), (7, 3, 1, "relu"), (2, 5, 3, "gelu")],
)
def test_qformer_equals_transformers(layers, freq, depth, act):
    config = dataclasses.replace(SMALL, num_layers=layers, cross_attention_freq=freq, proj_depth=depth, hidden_act=act)
    theirs, tensors = torch_qformer(config)
    table = qformer.weight_table(config, kind="visual")
    params = load(table, tensors)
    tree = shapes(QFormer(config), 1, 4, config.encoder_width)
    assert {path: x.shape for path, x in params.items()} == {path: x.shape for path, x in tree.items()}
    assert sum("crossattention" in name for name in names(table)) == 10 * -(-layers // freq)

    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 7, config.encoder_width)).astype(np.float32)
    mask = np.arange(7) < np.array([[7], [3], [1]])
    params = {"params": flat.nest(params)}
    run = compiled(QFormer(config))
    np.testing.assert_allclose(run(params, features), theirs(features), **CLOSE)
    np.testing.assert_allclose(run(params, features, mask), theirs(features, mask), **CLOSE)
    _, seen = jax.eval_shape(functools.partial(QFormer(config).apply, capture=True), params, features)
    assert {name.split(".")[0] for name in seen if name.startswith("layer")} == {f"layer{i}" for i in range(layers)}
    with_cross = {name for name in seen if name.endswith("cross_attn")}
    assert with_cross == {f"layer{i}.cross_attn" for i in range(0, layers, freq)}


def test_qformer_dropout():
    """Dropout is off unless asked for, follows its key, and needs one."""
    config = dataclasses.replace(SMALL, dropout=0.3)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 10)), F32)
    model = QFormer(config)
    params = random_params(model, *features.shape)
    quiet = compiled(model)(params, features)
    np.testing.assert_array_equal(quiet, compiled(QFormer(SMALL))(params, features))

    @jax.jit
    def noisy(params, seed):
        rngs = {"dropout": jax.random.key(seed, impl="rbg")}  # compiles four times as fast as the default on CPU
        return model.apply(params, features, deterministic=False, capture=True, rngs=rngs)

    assert np.abs(noisy(params, 1)[0] - quiet).max() > 1e-3
    assert np.abs(noisy(params, 1)[0] - noisy(params, 2)[0]).max() > 1e-3
    np.testing.assert_array_equal(noisy(params, 1)[0], noisy(params, 1)[0])

    # Every layer draws its own masks: attention that gives 0 and an MLP that gives 1 leave nothing but the mask.
    mute = flat.flatten(params["params"])
    for path in ("attn/norm/scale", "attn/norm/bias", "cross/norm/scale", "cross/norm/bias", "down/kernel"):
        mute[f"layers/{path}"] = np.zeros_like(mute[f"layers/{path}"])
    for path in ("down/bias", "norm/scale"):
        mute[f"layers/{path}"] = np.ones_like(mute[f"layers/{path}"])
    mute["layers/norm/bias"] = np.zeros_like(mute["layers/norm/bias"])
    _, seen = noisy({"params": flat.nest(mute)}, 1)
    kept = [np.asarray(seen[f"layer{i}.out"]) > 0 for i in range(SMALL.num_layers)]
    assert all(k.any() and not k.all() for k in kept)
    assert (kept[0] != kept[1]).any()
    with pytest.raises(flax.errors.InvalidRngError):
        model.apply(params, features, deterministic=False)


def test_qformer_dropout_places():
    """Embeddings, attention weights and every output map, specification 5.2."""
    model = QFormer(SMALL)
    seen = set()

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, Dropout):
            assert context.module.rate == SMALL.dropout
            assert not context.module.deterministic
            seen.add(("/".join(context.module.path[:-1]), args[0].shape))
        return next_fun(*args, **kwargs)

    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with nn.intercept_methods(note):
        jax.eval_shape(lambda x: model.init(keys, x, deterministic=False), jax.ShapeDtypeStruct((2, 7, 10), F32))
    hidden = (2, 5, 12)
    assert seen == {
        ("", hidden),
        ("layers", hidden),
        ("layers/attn", hidden),
        ("layers/attn", (2, 3, 5, 5)),
        ("layers/cross", hidden),
        ("layers/cross", (2, 3, 5, 7)),
    }


def test_qformer_initial_distributions():
    """Specification A.5."""
    config = dataclasses.replace(SMALL, hidden_size=96, intermediate_size=128, encoder_width=64, out_features=80)
    params = flat.flatten(jax.jit(QFormer(config).init)(jax.random.key(0), jnp.zeros((1, 3, 64)))["params"])
    for path, x in params.items():
        if path.endswith("scale"):
            assert (x == 1).all(), path
        elif path.startswith("proj_"):
            bound = 1 / math.sqrt(params[path.split("/")[0] + "/kernel"].shape[0])
            assert np.abs(x).max() <= bound, path
            assert np.std(x) == pytest.approx(bound / math.sqrt(3), rel=0.3), path
        elif path.endswith("bias"):
            assert (x == 0).all(), path
        else:
            assert np.std(x) == pytest.approx(0.02, rel=0.2), path
    assert np.abs(np.diff(params["layers/attn/q/kernel"], axis=0)).max() > 0  # layers differ


@pytest.mark.parametrize("change", [{"num_heads": 5}, {"num_layers": 0}, {"dropout": 1.0}, {"cross_attention_freq": 0}])
def test_qformer_config_refuses(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(SMALL, **change)


# --- all --------------------------------------------------------------------------------------------------------------


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
