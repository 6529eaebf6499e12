"""The language model against Hugging Face's, and the adapter against a loop over its heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import load

from crab_jax.backbones.llama import Cache, Llama, LoraConfig, causal, config_from_original, unstack, weight_table
from crab_jax.nn.lora import LoraLinear
from crab_jax.params import flatten, nest


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def loop_over_heads(params, x, scale):
    """The formula of specification 6.1, one head at a time."""
    logits = x @ params["lora_route"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = x @ params["kernel"]
    for h, b in enumerate(params["lora_b"]):
        y = y + scale * p[..., h : h + 1] * ((x @ params["lora_a"]) @ b)
    return y, p


@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_adapter_is_the_sum_over_heads(heads):
    rng = np.random.default_rng(heads)
    params = {
        "kernel": rng.normal(size=(24, 40)),
        "lora_a": rng.normal(size=(24, 4)),
        "lora_route": rng.normal(size=(24, heads)),
        "lora_b": rng.normal(size=(heads, 4, 40)),
    }
    x = rng.normal(size=(2, 7, 24))
    lora = LoraConfig(heads=heads, rank=4, alpha=12.0, dropout=0.5)
    y, route = LoraLinear(40, lora, jnp.float32).apply({"params": params}, jnp.asarray(x, jnp.float32))
    want, p = loop_over_heads(params, x, 3.0)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(route, p, atol=1e-6)


@pytest.mark.parametrize("masks", ["shared", "per_head"])
def test_dropout_only_reaches_a(masks):
    """Dropped inputs are rescaled, so the mean over masks is the evaluation; the router never sees dropout."""
    lora = LoraConfig(heads=2, rank=3, alpha=3.0, dropout=0.5, dropout_masks=masks)
    layer = LoraLinear(5, lora, jnp.float32, train=True)
    x = jax.random.normal(jax.random.key(0), (1, 4, 16))
    params = layer.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, x)
    params["params"]["lora_b"] = jax.random.normal(jax.random.key(3), (2, 3, 5))
    run = jax.jit(jax.vmap(lambda k: layer.apply(params, x, rngs={"dropout": k})))
    y, route = run(jax.random.split(jax.random.key(4), 4000))
    still, still_route = LoraLinear(5, lora, jnp.float32).apply(params, x)
    assert np.ptp(np.asarray(route), axis=0).max() == 0
    np.testing.assert_allclose(route[0], still_route, atol=1e-6)
    np.testing.assert_allclose(y.mean(0), still, atol=0.15)
    assert y.std(0).max() > 0.1


def test_dropout_masks_differ_between_heads():
    """Two opposite B heads with equal router weights: shared masks cancel, separate ones do not."""
    x = jnp.ones((1, 1, 64))
    params = {
        "kernel": jnp.zeros((64, 4)),
        "lora_a": jnp.ones((64, 1)),
        "lora_route": jnp.zeros((64, 2)),
        "lora_b": jnp.stack([jnp.ones((1, 4)), -jnp.ones((1, 4))]),
    }
    results = {}
    for masks in ("shared", "per_head"):
        lora = LoraConfig(heads=2, rank=1, alpha=1.0, dropout=0.5, dropout_masks=masks)
        layer = LoraLinear(4, lora, jnp.float32, train=True)
        results[masks], _ = layer.apply({"params": params}, x, rngs={"dropout": jax.random.key(0)})
    assert np.abs(results["shared"]).max() < 1e-5
    assert np.abs(results["per_head"]).max() > 0.1


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_against_hugging_face(kv_heads):
    """Unusual constants on purpose: a default that hides a wrong one would show."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = dict(
        vocab_size=61, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=128, rms_norm_eps=1e-3,
    )  # fmt: skip
    rope = {"rope_theta": 500.0}
    modern = int(transformers.__version__.split(".")[0]) >= 5
    torch.manual_seed(0)
    original = transformers.LlamaConfig(
        **sizes, **({"rope_parameters": {"rope_type": "default", **rope}} if modern else rope)
    )
    reference = transformers.LlamaForCausalLM(original).eval()
    config = config_from_original(sizes | rope, vocab_size=61, lora=None)
    tensors = {k.removeprefix("model."): v.numpy() for k, v in reference.state_dict().items()}
    variables = {"params": nest(load(weight_table(config), tensors))}
    tokens = np.random.default_rng(0).integers(0, 61, (2, 9))
    segment = np.ones((2, 9), np.int32)
    segment[1, :4] = 0
    position = np.maximum(np.cumsum(segment, axis=1) - 1, 0)
    with torch.no_grad():
        want = reference(
            torch.tensor(tokens), attention_mask=torch.tensor(segment), position_ids=torch.tensor(position)
        ).logits.numpy()
    model = Llama(config, jnp.float32)
    x = model.apply(variables, tokens, jnp.float32, method=lambda m, t, d: m.embed(t))
    states, _, _ = model.apply(variables, x, position, causal(segment))
    got = model.apply(variables, states, method="logits")
    np.testing.assert_allclose(np.asarray(got)[segment > 0], want[segment > 0], atol=2e-5)


@pytest.fixture(scope="module")
def small():
    config = config_from_original(
        dict(
            hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            rms_norm_eps=1e-5, rope_theta=100.0,
        ),
        vocab_size=50,
        lora=LoraConfig(heads=3, rank=2, alpha=4.0, dropout=0.0),
    )  # fmt: skip
    model = Llama(config, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 8, 32))
    segment = np.ones((2, 8), np.int32)
    params = model.init(jax.random.key(1), x, np.zeros((2, 8), np.int32), causal(segment))
    params["params"]["layers"]["attn"]["q"]["lora_b"] = jnp.full((3, 3, 2, 32), 0.1)
    return config, params, x


def test_unrolled_is_scanned(small):
    config, params, x = small
    segment = np.ones((2, 8), np.int32)
    position = np.cumsum(segment, axis=1) - 1
    stacked, _, _ = Llama(config, jnp.float32).apply(params, x, position, causal(segment))
    flat = {f"llama/{p}": v for p, v in flatten(params["params"]).items()}
    separate = nest(unstack(flat, config.num_layers))["llama"]
    unrolled, _, _ = Llama(config, jnp.float32, unrolled=True).apply({"params": separate}, x, position, causal(segment))
    np.testing.assert_allclose(stacked, unrolled, atol=1e-6)


@pytest.mark.parametrize("separate", [False, True], ids=["stacked", "separate layers"])
def test_cache_equals_full_pass(small, separate):
    """Prefill of five tokens and three steps, in a cache with free slots, behind different amounts of padding."""
    config, params, x = small
    segment = np.ones((2, 8), np.int32)
    segment[1, :3] = 0
    position = np.maximum(np.cumsum(segment, axis=1) - 1, 0)
    full, _, _ = Llama(config, jnp.float32).apply(params, x, position, causal(segment))
    if separate:
        flat = {f"llama/{p}": v for p, v in flatten(params["params"]).items()}
        params = {"params": nest(unstack(flat, config.num_layers))["llama"]}
    model = Llama(config, jnp.float32, unrolled=separate)
    cache = Cache.zeros(config, batch=2, slots=11, dtype=jnp.float32, separate=separate)
    states, cache, _ = model.apply(params, x[:, :5], position[:, :5], causal(segment[:, :5]), cache, 0)
    got = [states]
    first = np.argmax(segment, axis=1)[:, None]
    for i in range(5, 8):
        slot = np.arange(11)
        visible = ((slot >= first) & (slot <= i))[:, None, None]
        states, cache, _ = model.apply(params, x[:, i : i + 1], position[:, i : i + 1], visible, cache, i)
        got.append(states)
    real = segment > 0
    np.testing.assert_allclose(np.concatenate(got, axis=1)[real], np.asarray(full)[real], atol=2e-6)


def test_segments_do_not_see_each_other(small):
    """Two examples packed into one row give what each gives alone."""
    config, params, x = small
    model = Llama(config, jnp.float32)
    segment = np.array([[1, 1, 1, 2, 2, 2, 2, 0]])
    position = np.array([[0, 1, 2, 0, 1, 2, 3, 0]])
    packed, _, _ = model.apply(params, x[:1], position, causal(segment))
    for start, stop in ((0, 3), (3, 7)):
        n = stop - start
        alone, _, _ = model.apply(params, x[:1, start:stop], np.arange(n)[None], causal(np.ones((1, n), np.int32)))
        np.testing.assert_allclose(packed[:, start:stop], alone, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"head_dim": 7}, "heads of 7"),
        ({"rms_norm_eps": None}, "rms_norm_eps missing"),
    ],
)
def test_unknown_architectures_are_refused(change, message):
    sizes = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, rms_norm_eps=1e-5)
    values = {k: v for k, v in (sizes | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        config_from_original(values, vocab_size=50, lora=None)
