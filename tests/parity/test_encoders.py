"""BEATs, CLIP's taps and both projectors against recorded numbers (c02, c03, c04)."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_weights import load

from crab_jax.backbones import beats, clip, qformer
from crab_jax.convert.sources import open_source
from crab_jax.params import flatten, nest


def tensors_of(path):
    """Name → array of a Hugging Face folder or a PyTorch file, in any of their formats."""
    source = open_source(path)
    return {name: source.read(name) for name in source.names()}, source.extra


@pytest.mark.case("c02")
def test_beats(case):
    """Every variant with all intermediates, the bucket table, and the padding that Crab itself never uses."""
    tensors, extra = tensors_of(case.file(".pt"))
    assert dict(extra["cfg"]) == case.config
    config = beats.config_from_original(extra["cfg"])
    model = beats.Beats(config)
    params = {"params": nest(load(beats.weight_table(config), tensors))}

    @jax.jit
    def run(fbank, mask=None):
        with jax.default_matmul_precision("highest"):
            return model.apply(params, fbank, mask=mask, capture=True)

    for name in case.names("input"):
        variant, _, what = name.rpartition("/")
        if what != "fbank":
            continue
        fbank = case[name]
        windows = fbank.reshape(-1, *fbank.shape[-2:])
        out, seen = run(windows)
        side = seen["patch_embedding"].reshape(len(windows), -1, config.tokens_per_row, config.embed_dim)
        ours = dict(seen) | {
            "out": out.reshape(*fbank.shape[:-2], *out.shape[-2:]),
            "patch_embedding": side.transpose(0, 3, 1, 2),
            "encoder.pos_conv": seen["encoder.pos_conv"].swapaxes(1, 2),
            "position_bias": np.tile(seen["position_bias"], (len(windows), 1, 1)),
        }
        for result in case.results(f"{variant}/"):
            case.check(result, ours[result.removeprefix(f"{variant}/")])

    if "bucket/relative_position_bucket" in case:
        tokens = case["bucket/relative_position_bucket"].shape[0]
        buckets = beats.relative_buckets(tokens, num_buckets=config.num_buckets, max_distance=config.max_distance)
        case.check("bucket/relative_position_bucket", buckets)
        case.check("bucket/compute_bias", params["params"]["relative_bias"][buckets].transpose(2, 0, 1))

    if "pad/padding_mask" in case:
        # The reference cuts the mask of the frames into as many pieces as there are tokens, frequency or not; a token
        # is padding if its whole piece is. The text of the tensor names the windows.
        padding, about = case["pad/padding_mask"], case.about("pad/padding_mask")
        (name,) = [n for n in case.names("input") if n.endswith("/fbank") and re.search(rf"\b{re.escape(n)}", about)]
        windows = case[name].reshape(-1, *case[name].shape[-2:])
        n = config.tokens(windows.shape[1])
        pieces = padding[:, : padding.shape[1] // n * n].reshape(len(padding), n, -1)
        out, _ = run(windows, mask=~pieces.all(-1))
        case.check("pad/out", out)
    case.close()


@pytest.mark.case("c03")
def test_clip(case):
    """The taps, and with a tap behind the last block every hidden state that the reference computes."""
    folder = case.file("clip")
    tensors, _ = tensors_of(folder)
    original = json.loads((folder / "config.json").read_text())
    taps = tuple(case.config["select_layer_list"])
    config = clip.config_from_original(original, taps=taps)
    for ours, theirs in {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}.items():
        assert getattr(config, ours) == case.config[theirs]
    assert case.config["select_feature"] == "patch"
    video = case["video"]  # [B T 3 S S]
    pixels = video.reshape(-1, *video.shape[2:]).transpose(0, 2, 3, 1)

    def run(taps, capture):
        config = clip.config_from_original(original, taps=taps)
        params = nest(load(clip.weight_table(config), tensors))
        with jax.default_matmul_precision("highest"):
            return jax.jit(lambda p, x: clip.Clip(config).apply({"params": p}, x, capture=capture))(params, pixels)

    ours = {
        f"selected[{tap}]": features.reshape(len(video), -1, config.hidden_size)
        for tap, features in zip(taps, run(taps, capture=False), strict=True)
    }
    _, states = run((config.num_layers,), capture=True)
    ours |= {f"hidden_states[{i}]": state for i, state in enumerate(states)}
    for name in case.results():
        case.check(name, ours[name])
    case.close()


def projector_config(c, kind):
    """The manifest of c04 → the config of one of its two projectors."""
    return qformer.QFormerConfig(
        encoder_width=c[f"encoder_width_{kind}"],
        num_queries=c[f"{kind}_query_token_nums"],
        hidden_size=c["hidden_size"],
        num_heads=c["num_attention_heads"],
        intermediate_size=c["intermediate_size"],
        num_layers=c["num_hidden_layers"],
        cross_attention_freq=c["cross_attention_freq"],
        layer_norm_eps=c["layer_norm_eps"],
        input_norm_eps=c["projector_layernorm_eps"],
        hidden_act=c["hidden_act"].split()[0],
        dropout=0.0,  # the cases are recorded in evaluation mode
        out_features=c["d_model"],
        proj_depth=c["depth"],
        vocab_size=c["vocab_size"],
        max_positions=c["max_position_embeddings"],
    )


def in_groups(x, kind, c):
    """[B T n C], [B T·n C] with n patches per frame, or one audio window per row → [G n C]."""
    if x.ndim == 4:
        return x.reshape(-1, *x.shape[2:])
    return x.reshape(-1, c["image_token_nums"], x.shape[-1]) if kind == "visual" else x


@pytest.mark.case("c04_projectors")
def test_projectors(case):
    """Every variant with intermediates and gradients, and the tensors that get no gradient."""
    weights = case.weights().arrays
    for variant in case.variants():
        part = {"vl": "vl_projector.", "al": "al_projector."}[variant[:2]]
        kind = {"vl": "visual", "al": "audio"}[variant[:2]]
        config = projector_config(case.config, kind)
        table = qformer.weight_table(config, kind=kind)
        params = nest(load(table, weights, part))
        x = case[f"{variant}/input"]
        model = qformer.QFormer(config)

        def run(params, x, model=model, kind=kind):
            out, seen = model.apply({"params": params}, in_groups(x, kind, case.config), capture=True)
            return out.reshape(len(x), -1, out.shape[-1]), seen

        with jax.default_matmul_precision("highest"):
            out, ours = jax.jit(run)(params, x)
        ours["out"] = out
        if f"{variant}/cotangent" in case:
            loss = lambda p, x, run=run, ct=case[f"{variant}/cotangent"]: jnp.sum(run(p, x)[0] * ct)  # noqa: E731
            with jax.default_matmul_precision("highest"):
                grads, x_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
            grads = flatten(grads)
            ours["grad/input"] = x_grad
            for rule in table.rules:
                for index, key in rule.keys():
                    ours[f"grad/{key}"] = rule.op.save(np.asarray(grads[rule.path][index]))
            if (without := case.manifest.get("params_without_grad", {}).get(variant)) is not None:
                assert set(without) == set(table.unused)
        for name in case.results(f"{variant}/"):
            case.check(name, ours[name.removeprefix(f"{variant}/")])
    case.close()
