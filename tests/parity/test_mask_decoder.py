"""Recorded cases c08: the mask decoder with every stage, its loss and gradients, and the losses alone."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import part_of
from torch_weights import load

from crab_jax.backbones.mask_decoder import PE_TENSORS, MaskDecoder, MaskDecoderConfig, weight_table
from crab_jax.losses import bce, dice, mask_loss, semantic_ce
from crab_jax.params import flatten, nest

BINARY, SEMANTIC = {"s4", "ms3", "ref-avs"}, {"avss"}  # specification 8.5; every other task has no mask

QUICK = {"xla_backend_optimization_level": 0}  # compiling is most of this test, and machine code need not be fast here

FIELDS = {  # ours → the manifest's
    "in_features": "d_model",
    "image_features": "vit_image_embedding_dim",
    "grid": "image_embedding_size",
    "image_size": "image_size",
    "low_res": "low_res_mask_size",
    "prompt_dim": "prompt_embed_dim",
    "num_heads": "two_way_heads",
    "mlp_dim": "two_way_mlp_dim",
    "downsample": "attention_downsample_rate",
    "depth": "mask_decoder_transformer_depth",
    "num_queries": "avs_query_num",
    "query_layers": "query_generator_num_layers",
    "query_heads": "query_generator_heads",
    "query_mlp_dim": "query_generator_hidden",
    "levels": "image_scale_nums",
    "tokens_per_level": "token_nums_per_scale",
    "binary_classes": "num_classes",
    "semantic_classes": "avss_classes",
    "norm2d_eps": "layernorm2d_eps",
}


@pytest.fixture(autouse=True)
def _exact():
    with jax.default_matmul_precision("highest"):
        yield


def unload(table, flat):
    """Parameters (or their gradients) under their PyTorch names."""
    return {key: rule.op.save(np.asarray(flat[rule.path])[i]) for rule in table.rules for i, key in rule.keys()}


def kinds(names):
    """Task names → is_semantic and valid."""
    return jnp.array([n in SEMANTIC for n in names]), jnp.array([n in BINARY | SEMANTIC for n in names])


@pytest.mark.case("c08_seg")
def test_mask_decoder(case):
    config = MaskDecoderConfig(**{ours: case.config[theirs] for ours, theirs in FIELDS.items()})
    model, table = MaskDecoder(config, jnp.float32), weight_table(config)
    tensors = dict(case.weights().arrays)
    buffers = {path: tensors.pop(key) for path, key in PE_TENSORS.items()}
    params = load(table, tensors) | buffers
    assert {p: jnp.shape(x) for p, x in params.items()} == {p: x.shape for p, x in abstract(model).items()}
    for key, tensor in unload(table, params).items():
        np.testing.assert_array_equal(tensor, tensors[key])
    assert set(unload(table, params)) | set(table.unused) == set(tensors)

    states = case["pred_embeddings"]
    features = tuple(case[f"multi_scale_image_feature[{i}]"] for i in range(config.levels))
    masks = case["gt_mask"][:, 0]

    def check(name, value):
        case.check(name, part_of(case.about(name), np.asarray(value)))

    def unchecked():
        return [name for name in case.results() if name not in case.compared]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(trained, is_semantic, valid, masks):
        """Loss, gradients, logits and stages in one compiled function: every batch of the case goes through it."""

        def loss(params, states, features):
            logits, stages = model.apply({"params": nest(params)}, states, features, is_semantic, capture=True)
            return mask_loss(logits, masks, is_semantic, valid)[0], (logits, stages)

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*trained)

    trained = (params, states, features)
    names = case.config["batch_task_names"]
    is_semantic, valid = kinds(names)
    heads = ["semantic" if s else "binary" for s in is_semantic]
    (_, (logits, stages)), gradient = jax.tree.map(np.asarray, run(trained, is_semantic, valid, masks))
    stages = {n: x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for n, x in stages.items()}
    for name in unchecked():
        if found := re.fullmatch(r"sample(\d+)/(.*?)(?:/strided)?", name):
            i, stage = int(found[1]), found[2]
            check(name, stages[stage if stage in stages else f"{stage}/{heads[i]}"][i : i + 1])
        elif name in stages:
            check(name, stages[name])
        elif found := re.fullmatch(r"pred_masks\[(\d+)\](?:/(.*))?", name):
            mask = logits[heads[int(found[1])]][int(found[1])]
            summaries = {
                "class_mean": lambda x: x.mean(axis=(1, 2)),
                "argmax": lambda x: x.argmax(axis=0),
                "positive": lambda x: np.packbits(x > 0),
            }
            check(name, summaries.get(found[2], lambda x: x)(mask))

    for batch, given in case.config["loss_batches"].items():
        target = {"gt_mask": masks, "gt_mask > 0": (masks > 0).astype(np.uint8)}[given["gt"]]
        (value, _), _ = run(trained, *kinds(given["batch_task_names"]), target)
        check(f"mask_loss/{batch}", value)

    # The gradients are those of the loss batch that is the batch of the stages.
    assert {"batch_task_names": names, "gt": "gt_mask"} in case.config["loss_batches"].values()
    ours = unload(table, gradient[0]) | {"pred_embeddings": gradient[1]}
    ours |= {f"multi_scale_image_feature[{i}]": g for i, g in enumerate(gradient[2])}
    for name in unchecked():
        check(name, ours[name.split("/", 1)[1]])
    case.close()

    assert set(case.manifest["params_without_grad"]) == set(table.unused)
    for path in buffers:
        assert not np.any(gradient[0][path]), path
    third = 2 * config.prompt_dim
    for leaf in ("kernel", "bias"):  # single-key cross-attention: its q and k parts are inert
        assert not np.any(gradient[0][f"query_generator/cross_attn_in/{leaf}"][..., :third])
        assert np.any(gradient[0][f"query_generator/cross_attn_in/{leaf}"][..., third:])


def abstract(model):
    c = model.config
    states = jax.ShapeDtypeStruct((1, c.mask_tokens, c.in_features), jnp.float32)
    level = jax.ShapeDtypeStruct((1, c.grid**2, c.image_features), jnp.float32)
    kind = jax.ShapeDtypeStruct((1,), bool)
    return flatten(jax.eval_shape(model.init, jax.random.key(0), states, (level,) * c.levels, kind)["params"])


@pytest.mark.case("c08_losses")
def test_losses(case):
    logits, targets = case["logits"], case["targets"]

    def dice_here(x, t):
        return dice(x, t, **case.config["dice"])

    def both(x):
        return (dice_here(x, targets) + bce(x, targets)).sum() / (len(x) + 1e-8)

    functions = {"dice": dice_here, "sigmoid_ce": bce}
    for name in case.results():
        if found := re.fullmatch(r"(dice|sigmoid_ce)\[(\d+|all)\]/num_masks=(\d+)", name):
            which = slice(None) if found[2] == "all" else slice(int(found[2]), int(found[2]) + 1)
            terms = functions[found[1]](logits[which], targets[which])
            case.check(name, jnp.sum(terms) / (int(found[3]) + 1e-8))
        elif name.startswith("F10_IoU_BCELoss/"):  # with or without an axis of size one in the target: the same number
            case.check(name, semantic_ce(case["cls_logits"], case["cls_targets"]).sum())
        elif name == "grad/dice+ce/logits":
            case.check(name, jax.grad(both)(logits))
    case.close()
