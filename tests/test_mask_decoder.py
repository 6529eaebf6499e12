"""The mask decoder against a second implementation in torch, and by its laws."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import load

from crab_jax.backbones.mask_decoder import (
    PE_TENSORS,
    MaskDecoder,
    MaskDecoderConfig,
    positional_encoding,
    resize,
    weight_table,
)
from crab_jax.losses import mask_loss
from crab_jax.params import count, flatten, nest

torch = pytest.importorskip("torch")
F = torch.nn.functional

# Unusual on purpose: an odd grid, sizes with no common factor, three blocks, three generator layers, unequal heads.
CONFIG = MaskDecoderConfig(
    in_features=12,
    image_features=10,
    grid=3,
    image_size=25,
    low_res=14,
    prompt_dim=16,
    num_heads=2,
    mlp_dim=24,
    downsample=2,
    depth=3,
    num_queries=5,
    query_layers=3,
    query_heads=4,
    query_mlp_dim=20,
    levels=2,
    tokens_per_level=2,
    binary_classes=1,
    semantic_classes=6,
    norm_eps=1e-4,
    norm2d_eps=1e-3,
)
PUBLISHED = MaskDecoderConfig(
    in_features=4096,
    image_features=1024,
    grid=16,
    image_size=224,
    low_res=112,
    prompt_dim=256,
    num_heads=8,
    mlp_dim=2048,
    downsample=2,
    depth=2,
    num_queries=300,
    query_layers=2,
    query_heads=8,
    query_mlp_dim=2048,
    levels=2,
    tokens_per_level=3,
    binary_classes=1,
    semantic_classes=71,
)
KINDS = np.array([False, True, False])
QUICK = {"xla_backend_optimization_level": 0}  # compiling is most of these tests, and machine code need not be fast


@pytest.fixture(autouse=True)
def _exact():
    with jax.default_matmul_precision("highest"):
        yield


def inputs(config, batch, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(batch, config.mask_tokens, config.in_features)).astype(np.float32)
    shape = (batch, config.grid**2, config.image_features)
    return states, tuple(rng.normal(size=shape).astype(np.float32) for _ in range(config.levels))


def abstract(config):
    """Shapes of all parameters."""
    model = MaskDecoder(config, jnp.float32)
    return flatten(jax.eval_shape(model.init, jax.random.key(0), *inputs(config, 1), KINDS[:1])["params"])


def unload(table, flat):
    return {key: rule.op.save(np.asarray(flat[rule.path])[i]) for rule in table.rules for i, key in rule.keys()}


@pytest.fixture(scope="module")
def tensors():
    """Random tensors under the published names. Norms and embeddings too are random, so that every name counts."""
    table, rng = weight_table(CONFIG), np.random.default_rng(3)
    zeros = {path: np.zeros(x.shape, bool) for path, x in abstract(CONFIG).items()}
    shapes = {k: x.shape for k, x in unload(table, zeros).items()} | dict(table.unused)
    shapes |= dict.fromkeys(PE_TENSORS.values(), (2, CONFIG.prompt_dim // 2))
    return {
        k: (rng.normal(size=s) / math.sqrt(max(math.prod(s[1:]), 1)) + ("norm" in k)).astype(np.float32)
        for k, s in shapes.items()
    }


@pytest.fixture(scope="module")
def params(tensors):
    named = {k: x for k, x in tensors.items() if k not in PE_TENSORS.values()}
    return load(weight_table(CONFIG), named) | {path: tensors[key] for path, key in PE_TENSORS.items()}


@pytest.fixture(scope="module")
def decode():
    """Jitted `apply` of the small model."""

    def apply(params, states, features, is_semantic=None, heads=("binary", "semantic"), dtype=jnp.float32):
        model = MaskDecoder(CONFIG, dtype)
        return model.apply({"params": nest(params)}, states, features, is_semantic, heads=heads)

    return jax.jit(apply, static_argnames=("heads", "dtype"), compiler_options=QUICK)


# A second implementation: torch modules, one sample at a time, every tensor under its published name.


def linear(w, key, x):
    return F.linear(x, w[f"{key}.weight"], w[f"{key}.bias"])


def layer_norm(w, key, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"], CONFIG.norm_eps)


def layer_norm_2d(w, key, x):
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / torch.sqrt(var + CONFIG.norm2d_eps)
    return x * w[f"{key}.weight"][:, None, None] + w[f"{key}.bias"][:, None, None]


def packed_attention(w, key, query, memory):
    """torch's own multi-head attention with packed projections."""
    d = query.shape[-1]
    names = ("in_proj_weight", "in_proj_bias")
    y, _ = F.multi_head_attention_forward(
        query[:, None], memory[:, None], memory[:, None], d, CONFIG.query_heads, *(w[f"{key}.{n}"] for n in names),
        None, None, False, 0.0, w[f"{key}.out_proj.weight"], w[f"{key}.out_proj.bias"],
    )  # fmt: skip
    return y[:, 0]


def attention(w, key, *qkv):
    q, k, v = (
        linear(w, f"{key}.{n}_proj", x).unflatten(-1, (CONFIG.num_heads, -1)).transpose(0, 1)
        for n, x in zip("qkv", qkv, strict=True)
    )
    y = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
    return linear(w, f"{key}.out_proj", y)


def two_way(w, key, src, pe, queries):
    image, pe, first = src.flatten(2)[0].T, pe.flatten(1).T, queries
    for i in range(CONFIG.depth):
        k = f"{key}.layers.{i}"
        if i == 0:
            queries = attention(w, f"{k}.self_attn", queries, queries, queries)
        else:
            queries = queries + attention(w, f"{k}.self_attn", queries + first, queries + first, queries)
        queries = layer_norm(w, f"{k}.norm1", queries)
        seen = attention(w, f"{k}.cross_attn_token_to_image", queries + first, image + pe, image)
        queries = layer_norm(w, f"{k}.norm2", queries + seen)
        hidden = linear(w, f"{k}.mlp.lin2", F.relu(linear(w, f"{k}.mlp.lin1", queries)))
        queries = layer_norm(w, f"{k}.norm3", queries + hidden)
        seen = attention(w, f"{k}.cross_attn_image_to_token", image + pe, queries + first, queries)
        image = layer_norm(w, f"{k}.norm4", image + seen)
    seen = attention(w, f"{key}.final_attn_token_to_image", queries + first, image + pe, image)
    return layer_norm(w, f"{key}.norm_final_attn", queries + seen), image


def query_generator(w, prompt):
    tokens = w["mask_decoder.avs_query_tokens.weight"]
    for layer in range(CONFIG.query_layers):
        k = f"mask_decoder.query_generator.layers.{layer}"
        x = layer_norm(w, f"{k}.norm1", tokens + packed_attention(w, f"{k}.self_attn", tokens, tokens))
        x = layer_norm(w, f"{k}.norm2", x + packed_attention(w, f"{k}.cross_attn", x, prompt))
        x = layer_norm(w, f"{k}.norm3", x + linear(w, f"{k}.ffn.2", F.gelu(linear(w, f"{k}.ffn.0", x))))
    return x


def encoding(gaussian, size):
    centre = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    v = 2 * math.pi * ((2 * torch.stack([x, y], -1) - 1) @ gaussian)
    return torch.cat([v.sin(), v.cos()], -1).permute(2, 0, 1)


def upscale(w, key, x):
    x = F.conv_transpose2d(x, w[f"{key}.0.weight"], w[f"{key}.0.bias"], stride=2)
    return F.gelu(layer_norm_2d(w, f"{key}.1", x))


def conv(w, key, x):
    return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"])


def bilinear(x, size):
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def reference(w, states, features, semantic):
    """One sample: states [K D], features of each level [P C] → logits [C S S]."""
    g, d = CONFIG.grid, "mask_decoder"
    text = linear(w, "text_hidden_fcs.0.2", F.relu(linear(w, "text_hidden_fcs.0.0", states)))
    prompts = text.reshape(CONFIG.levels, CONFIG.tokens_per_level, -1).mean(1)
    neck = torch.stack(features).transpose(1, 2).reshape(CONFIG.levels, -1, g, g)
    neck = layer_norm_2d(w, "image_feature_neck.1", F.conv2d(neck, w["image_feature_neck.0.weight"]))
    neck = F.conv2d(neck, w["image_feature_neck.2.weight"], padding=1)
    neck = layer_norm_2d(w, "image_feature_neck.3", neck)
    classifier = w[f"{d}.avss_classifier.weight" if semantic else f"{d}.ms3_s4_classfier.weight"]
    low, logits = 0, None
    for level in range(CONFIG.levels):
        queries = query_generator(w, prompts[level : level + 1]) + w[f"{d}.level_embed.weight"][level]
        src = neck[level : level + 1]
        gaussian = w[list(PE_TENSORS.values())[level]]
        if level:
            src = upscale(w, f"{d}.upsample_2x", src)
            src = (logits.mean(1, keepdim=True).sigmoid() + 1) * src
        pe = encoding(gaussian, src.shape[-1])
        src = src + w["no_mask_embed.weight"].reshape(1, -1, 1, 1)
        queries, image = two_way(w, f"{d}.transformer.{level}", src, pe, queries)
        up = upscale(w, f"{d}.output_upscaling", image.T.reshape(src.shape))
        kernels = queries
        for i in range(3):
            kernels = linear(w, f"{d}.hyper_mlp.layers.{i}", F.relu(kernels) if i else kernels)
        x = torch.einsum("qc,bchw->bqhw", kernels, up)
        for i in range(3):
            x = conv(w, f"{d}.hyper_mlp_out.layers.{i}", F.relu(x) if i else x)
        logits = F.conv2d(x, classifier)
        low = low + 0.5 * bilinear(logits, CONFIG.low_res)
    return bilinear(low, CONFIG.image_size)[0]


def test_everything_equals_the_second_implementation_and_so_do_the_gradients(tensors, params):
    rng = np.random.default_rng(4)
    states, features = inputs(CONFIG, len(KINDS), seed=5)
    masks = rng.integers(0, 2, (len(KINDS), CONFIG.image_size, CONFIG.image_size)).astype(np.uint8)
    masks[KINDS] = rng.integers(0, CONFIG.semantic_classes, masks[KINDS].shape)
    model = MaskDecoder(CONFIG, jnp.float32)

    def loss(trained):
        params, states, features = trained
        logits = model.apply({"params": nest(params)}, states, features, KINDS)
        return mask_loss(logits, masks, KINDS, np.ones(len(KINDS), bool))[0], logits

    ours = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (value, logits), (gradient, states_gradient, features_gradient) = ours((params, states, features))

    w = {k: torch.from_numpy(x).requires_grad_() for k, x in tensors.items()}
    theirs_in = [torch.from_numpy(x).requires_grad_() for x in (states, *features)]
    n_binary, n_semantic, binary, semantic = (~KINDS).sum(), KINDS.sum(), 0, 0
    for i, kind in enumerate(KINDS):
        x = reference(w, theirs_in[0][i], [f[i] for f in theirs_in[1:]], kind)
        np.testing.assert_allclose(logits["semantic" if kind else "binary"][i], x.detach(), atol=2e-5)
        if kind:
            semantic = semantic + F.cross_entropy(x[None], torch.from_numpy(masks[i : i + 1].astype(np.int64)))
        else:
            t = torch.from_numpy(masks[i : i + 1].astype(np.float32))
            p = x.sigmoid()
            ratio = (2 * (p * t).sum() / 1000 + 1e-6) / (p.sum() / 1000 + t.sum() / 1000 + 1e-6)
            binary = binary + F.binary_cross_entropy_with_logits(x, t) + 0.5 * (1 - ratio)
    want = (n_binary * binary + n_semantic * semantic) / len(KINDS)
    want.backward()

    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    for got, x in zip((states_gradient, *features_gradient), theirs_in, strict=True):
        np.testing.assert_allclose(got, x.grad, atol=2e-6, rtol=1e-3)
    table = weight_table(CONFIG)
    for key, got in unload(table, gradient).items():
        np.testing.assert_allclose(got, w[key].grad, atol=1e-5, rtol=1e-3, err_msg=key)
    assert all(w[key].grad is None or not w[key].grad.any() for key in table.unused)
    inert = 2 * CONFIG.prompt_dim
    assert not np.any(gradient["query_generator/cross_attn_in/kernel"][:, :inert])  # Q-8, exactly zero here
    assert not any(np.any(gradient[path]) for path in PE_TENSORS)  # buffers
    per_level = [gradient[f"transformer/level{i}/layers/mlp/lin1/kernel"] for i in range(CONFIG.levels)]
    assert not np.allclose(*per_level)  # the levels start as copies and part in training


@pytest.mark.parametrize(("size", "to"), [(8, 28), (16, 28), (32, 14), (28, 56), (7, 7), (9, 4), (1, 5), (64, 112)])
def test_resize_is_torch_interpolate(size, to):
    x = np.random.default_rng(size).normal(size=(2, 3, size, size)).astype(np.float32)
    # Both compute source positions of up to `size` pixels in float32; a pixel's neighbours differ by a few units.
    np.testing.assert_allclose(resize(x, to), bilinear(torch.from_numpy(x), to), atol=size * 2.5e-7 + 5e-7)


def test_positional_encoding_counts_columns_first():
    gaussian = np.array([[1.0, 0.0], [0.0, 0.25]], np.float32)
    pe = positional_encoding(gaussian, 4)
    x, y = np.meshgrid([-0.75, -0.25, 0.25, 0.75], [-0.75, -0.25, 0.25, 0.75])  # pixel centres, x along columns
    want = [np.sin(2 * np.pi * x), np.sin(np.pi / 2 * y), np.cos(2 * np.pi * x), np.cos(np.pi / 2 * y)]
    np.testing.assert_allclose(pe, np.stack(want, -1), atol=1e-6)


@pytest.mark.parametrize(("queries", "scalars"), [(300, 29_089_696), (128, 29_001_632)])
def test_published_sizes(queries, scalars):
    """Specification 1.2 and A.3, by shapes alone; the two Gaussian matrices are in no file."""
    config = dataclasses.replace(PUBLISHED, num_queries=queries)
    model, table = MaskDecoder(config, jnp.bfloat16), weight_table(config)
    states = jax.ShapeDtypeStruct((1, 6, 4096), jnp.float32)
    features = (jax.ShapeDtypeStruct((1, 256, 1024), jnp.float32),) * 2
    shapes = flatten(
        jax.eval_shape(lambda k, *x: model.init(k, *x), jax.random.key(0), states, features, KINDS[:1])["params"]
    )
    held = {path: x for path, x in shapes.items() if path not in table.absent}
    assert set(held) == {rule.path for rule in table.rules}
    assert count(held) + sum(math.prod(s) for s in table.unused.values()) == scalars
    assert sum(len(list(rule.keys())) for rule in table.rules) + len(table.unused) == 235
    assert {path: shapes[path].shape for path in table.absent} == dict.fromkeys(PE_TENSORS, (2, 128))
    out = jax.eval_shape(lambda p, *x: model.apply({"params": p}, *x), nest(shapes), states, features, KINDS[:1])
    assert {h: (x.shape, x.dtype) for h, x in out.items()} == {
        "binary": ((1, 1, 224, 224), jnp.float32),
        "semantic": ((1, 71, 224, 224), jnp.float32),
    }


def test_weights_round_trip(tensors, params):
    table = weight_table(CONFIG)
    assert {path: x.shape for path, x in params.items()} == {path: x.shape for path, x in abstract(CONFIG).items()}
    back = unload(table, params)
    assert set(back) | set(table.unused) | set(PE_TENSORS.values()) == set(tensors)
    for key, x in back.items():
        assert x.shape == tensors[key].shape, key
        assert x.tobytes() == tensors[key].tobytes(), key


def test_initial_distributions():
    """Specification A.5. The bounds are exact, and many draws come close to them."""
    config = dataclasses.replace(CONFIG, prompt_dim=32, mlp_dim=64, query_mlp_dim=48)
    init = jax.jit(MaskDecoder(config, jnp.float32).init, compiler_options=QUICK)
    p = flatten(init(jax.random.key(0), *inputs(config, 1), KINDS[:1])["params"])
    d, f = config.prompt_dim, config.upscaled_dim

    def uniform(path, bound):
        top = float(np.abs(p[path]).max())
        # n draws stay below x of the bound with probability x^n: here 1e-6 at most.
        assert bound * 1e-6 ** (1 / p[path].size) < top <= bound * (1 + 1e-6), (path, top, bound)

    for path, fan_in in {
        "prompt/lin1": config.in_features,
        "prompt/lin2": config.in_features,
        "transformer/level0/layers/self_attn/q": d,
        "transformer/level0/layers/token_to_image/out": d // config.downsample,
        "transformer/level0/layers/mlp/lin2": config.mlp_dim,
        "transformer/level1/final_attn/v": d,
        "hyper/lin3": d,
        "mix/lin1": config.num_queries,
        "output_up": 4 * f,  # a transposed convolution counts its outputs
        "level_up": 4 * d,
    }.items():
        uniform(f"{path}/kernel", fan_in**-0.5)
        uniform(f"{path}/bias", fan_in**-0.5)
    uniform("neck/conv1/kernel", config.image_features**-0.5)
    uniform("neck/conv2/kernel", (9 * d) ** -0.5)
    uniform("classifier_semantic/kernel", f**-0.5)
    uniform("query_generator/self_attn_in/kernel", math.sqrt(6 / (d + 3 * d)))  # Xavier, packed
    uniform("query_generator/cross_attn_out/kernel", math.sqrt(6 / (d + d)))
    uniform("query_generator/mlp/lin1/kernel", math.sqrt(6 / (d + config.query_mlp_dim)))
    uniform("query_generator/mlp/lin1/bias", d**-0.5)
    assert not np.any(p["query_generator/self_attn_in/bias"])
    for path in ("query_tokens", "level_embed", "no_mask", *PE_TENSORS):
        assert 0.6 < np.std(p[path]) < 1.5, path
    for path, x in p.items():
        if path.endswith("/scale"):
            assert (x == 1).all(), path
        if path.startswith("transformer/level0/"):  # the levels start as copies of each other
            np.testing.assert_array_equal(x, p[path.replace("level0", "level1")], err_msg=path)
    kernel = p["transformer/level0/layers/self_attn/q/kernel"]
    assert not np.array_equal(kernel[0], kernel[1])  # but their blocks do not
    assert not np.array_equal(p["pe/level0"], p["pe/level1"])


def test_a_batch_equals_its_samples(decode, params):
    states, features = inputs(CONFIG, len(KINDS))
    together = decode(params, states, features, KINDS)
    for i in range(len(KINDS)):
        one = slice(i, i + 1)
        alone = decode(params, states[one], tuple(f[one] for f in features), KINDS[one])
        for head, x in alone.items():
            np.testing.assert_allclose(x[0], together[head][i], atol=1e-5)


def test_heads_select_maps_and_never_numbers(decode, params):
    states, features = inputs(CONFIG, len(KINDS))
    both = decode(params, states, features, KINDS)
    one = decode(params, states, features, KINDS, heads=("binary",))
    assert set(one) == {"binary"}
    assert one["binary"].shape == (len(KINDS), CONFIG.binary_classes, CONFIG.image_size, CONFIG.image_size)
    np.testing.assert_allclose(one["binary"], both["binary"], atol=1e-6)

    all_semantic = decode(params, states, features, np.ones(len(KINDS), bool))
    one = decode(params, states, features, heads=("semantic",))  # without kinds they follow from the only head
    assert set(one) == {"semantic"}
    assert one["semantic"].shape == (len(KINDS), CONFIG.semantic_classes, CONFIG.image_size, CONFIG.image_size)
    np.testing.assert_allclose(one["semantic"], all_semantic["semantic"], atol=1e-6)
    assert not np.allclose(one["semantic"], both["semantic"], atol=1e-4)


def test_each_sample_is_gated_by_its_own_head(decode, params):
    states, features = inputs(CONFIG, len(KINDS))
    before = decode(params, states, features, KINDS)
    other = params | {"classifier_semantic/kernel": params["classifier_semantic/kernel"] * -3 + 1}
    after = decode(other, states, features, KINDS)
    np.testing.assert_array_equal(before["binary"][~KINDS], after["binary"][~KINDS])
    assert not np.allclose(before["binary"][KINDS], after["binary"][KINDS], atol=1e-4)


def test_bfloat16_stays_close_and_gives_float32_logits(decode, params):
    states, features = inputs(CONFIG, len(KINDS))
    exact = decode(params, states, features, KINDS)
    rough = decode(params, states, features, KINDS, dtype=jnp.bfloat16)
    for head, x in rough.items():
        assert x.dtype == jnp.float32
        # Eight bits of mantissa through some thirty layers: a few per cent of the range.
        assert np.abs(x - exact[head]).mean() < 0.05 * np.abs(exact[head]).max()


def test_messages(decode, params):
    with pytest.raises(ValueError, match=r"two levels.*found 3"):
        dataclasses.replace(CONFIG, levels=3)
    with pytest.raises(ValueError, match=r"num_heads \* downsample = 6, found 16"):
        dataclasses.replace(CONFIG, num_heads=3)
    with pytest.raises(ValueError, match="depth is 0"):
        dataclasses.replace(CONFIG, depth=0)
    states, features = inputs(CONFIG, len(KINDS))
    with pytest.raises(ValueError, match="is_semantic is needed"):
        decode(params, states, features)
    with pytest.raises(ValueError, match="heads: expected some of binary, semantic"):
        decode(params, states, features, KINDS, heads=("both",))
    with pytest.raises(ValueError, match="K=4"):
        decode(params, states[:, :3], features, KINDS)
    with pytest.raises(ValueError, match="P=9"):
        decode(params, states, (features[0], features[1][:, :4]), KINDS)
    with pytest.raises(ValueError, match="expected 2 levels, found 1"):
        decode(params, states, features[:1], KINDS)
