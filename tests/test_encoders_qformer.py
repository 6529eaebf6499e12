"""The Q-Formers against transformers, against laws, and at their published sizes."""

import dataclasses
import functools
import itertools
import math

import encoder_models
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_models import (
    CLOSE,
    F32,
    SMALL,
    VISUAL,
    arrays,
    check_table,
    compiled,
    names,
    random_params,
    shapes,
    shuffle,
)
from torch_weights import load

from crab_jax import params as flat
from crab_jax.backbones import qformer
from crab_jax.backbones.qformer import QFormer
from crab_jax.config import ConfigError
from crab_jax.nn.dropout import Dropout

torch = pytest.importorskip("torch")

exact_matmuls = encoder_models.exact_matmuls  # a fixture of every test here

AUDIO = dataclasses.replace(VISUAL, encoder_width=768)


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
