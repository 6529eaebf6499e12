"""The LoRA linear and the language model against recorded numbers (c05, c06)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import load

from crab_jax.backbones.llama import Cache, Llama, LoraConfig, causal, config_from_original, weight_table
from crab_jax.convert.crab import strip
from crab_jax.losses import token_nll
from crab_jax.nn.lora import LoraLinear
from crab_jax.params import nest


@pytest.mark.case("c05")
def test_lora_linear(case):
    """Output, router weights and every gradient, for any number of heads, rank and scale."""
    for variant, c in case.config.items():
        lora = LoraConfig(heads=c["lora_nums"], rank=c["r"], alpha=c["lora_alpha"], dropout=0.0)
        assert lora.scale == pytest.approx(c["scaling"])
        w = {n.split("/", 1)[1]: case[n] for n in case.names("weight", f"{variant}/")}
        params = {
            "kernel": w["weight"].T,
            "lora_a": w["lora_A.weight"].T,
            "lora_route": w["lora_route.weight"].T,
            "lora_b": np.stack([w[f"lora_B{h}.weight"].T for h in range(lora.heads)]),
        }
        bias = w.get("bias", np.zeros(c["out_features"], np.float32))
        layer = LoraLinear(c["out_features"], lora, jnp.float32)

        def run(params, bias, x, layer=layer):
            y, route = layer.apply({"params": params}, x)
            return y + bias, route

        def loss(*args, run=run, cotangent=case[f"{variant}/cotangent"]):
            return (run(*args)[0] * cotangent).sum()

        x = case[f"{variant}/x"]
        with jax.default_matmul_precision("highest"):
            y, route = run(params, bias, x)
            grads, bias_grad, x_grad = jax.grad(loss, argnums=(0, 1, 2))(params, bias, x)
        ours = {"out": y, "route_weight": route, "grad/x": x_grad, "grad/bias": bias_grad}
        ours |= {"grad/weight": grads["kernel"].T, "grad/lora_A.weight": grads["lora_a"].T}
        ours |= {"grad/lora_route.weight": grads["lora_route"].T}
        ours |= {f"grad/lora_B{h}.weight": grads["lora_b"][h].T for h in range(lora.heads)}
        for name in case.results(f"{variant}/"):
            case.check(name, ours[name.removeprefix(f"{variant}/")])
    case.close()


def router(name, routers):
    """`layers.0.self_attn.q_proj` → that module's router weights."""
    _, layer, part, linear = name.split(".")
    return routers["attn" if part == "self_attn" else "mlp"][linear.removesuffix("_proj")][int(layer)]


@pytest.mark.case("c06")
@pytest.mark.parametrize("unrolled", [False, True])
def test_llama(case, unrolled):
    """Hidden states, routers, logits and loss with left padding; then cached decoding token by token."""
    from crab_jax.backbones.llama import unstack
    from crab_jax.params import subtree

    c = case.config
    lora = LoraConfig(heads=c["lora"]["lora_nums"], rank=c["lora"]["r"], alpha=c["lora"]["lora_alpha"], dropout=0.0)
    original = {k: v for k, v in c.items() if k not in ("lora", "vocab_size", "base_vocab_size")}
    config = config_from_original(original, vocab_size=c["vocab_size"], lora=lora)
    flat = load(weight_table(config), {strip(k): v for k, v in case.weights().arrays.items()})
    if unrolled:
        flat = unstack({f"llama/{k}": v for k, v in flat.items()}, config.num_layers)
        flat = subtree(flat, "llama")
    variables = {"params": nest(flat)}
    model = Llama(config, jnp.float32, capture=True, unrolled=unrolled)

    x, mask = case["inputs_embeds"], case["attention_mask"].astype(bool)
    with jax.default_matmul_precision("highest"):
        states, _, (layers, routers) = model.apply(variables, x, case["position_ids"], causal(mask.astype(np.int32)))
        logits = model.apply(variables, states, method="logits")
    labels = np.concatenate([case["labels"][:, 1:], np.full_like(case["labels"][:, :1], -1)], axis=1)
    labels = np.where(mask, labels, -1)
    total, count = token_nll(logits, jnp.asarray(labels))
    hidden = [x, *layers[:-1], states]
    ours = {"logits": logits, "loss": total / count} | {f"hidden_states[{k}]": h for k, h in enumerate(hidden)}
    for name in case.results():
        if name.startswith("decode/"):
            continue
        value = router(name.removeprefix("router/"), routers) if name.startswith("router/") else ours[name]
        # Padded query rows see every key with equal weight in the reference; nothing ever reads them.
        case.check(name, value, where=... if name == "loss" else mask)

    ids = case["decode/ids"]
    new = ids.shape[1]
    prompt = x[: len(ids), : prompt_length(case)]
    slots = prompt.shape[1] + new + 3  # a few slots stay empty: they must not matter
    cache = Cache.zeros(config, batch=len(ids), slots=slots, dtype=jnp.float32)
    ones = np.ones(prompt.shape[:2], np.int32)
    got = []
    with jax.default_matmul_precision("highest"):
        position = np.cumsum(ones, axis=1) - 1
        states, cache, _ = model.apply(variables, prompt, position, causal(ones), cache, 0)
        got.append(model.apply(variables, states[:, -1:], method="logits"))
        for step in range(new):
            at = prompt.shape[1] + step
            token = model.apply(variables, ids[:, step : step + 1], method="embed")
            visible = np.broadcast_to(np.arange(slots) <= at, (len(ids), 1, 1, slots))
            states, cache, _ = model.apply(variables, token, np.full((len(ids), 1), at), visible, cache, at)
            got.append(model.apply(variables, states, method="logits"))
    case.check("decode/logits", np.concatenate(got, axis=1))
    case.close()


def prompt_length(case):
    """The manifest says it in words: `prompt = inputs_embeds[:1,:12], then …`."""
    return int(re.search(r"inputs_embeds\[[^,\]]*,\s*:\s*(\d+)", case.about("decode/ids"))[1])
