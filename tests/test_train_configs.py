"""The six stages as configs: what they train, their presets, and arguments that cannot be."""

import functools
import importlib

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict
from models import tiny_config

from crab_jax.config import ConfigError, build
from crab_jax.model import abstract
from crab_jax.params import count, split
from crab_jax.recipe import Recipe
from crab_jax.system import POLICIES, ComputeConfig, LossConfig

STAGES = ("visual_pretrain", "audio_pretrain", "seg_pretrain", "finetune", "finetune_avs", "finetune_avss")
# Trained numbers of the published sizes (specification 1.2), without what the files hold and nothing reads (5.3, A.3).
UNREAD = 33_904_698  # of each projector
TRAINED = {
    "visual_pretrain": 73_553_978 - UNREAD,
    "audio_pretrain": 72_767_034 - UNREAD,
    "finetune": 191_483_508 - 2 * UNREAD,
}


shapes_of = functools.cache(abstract)  # a few seconds for each set of sizes


def config_of(stage, arg=""):
    c = importlib.import_module(f"configs.{stage}").get_config(arg)
    with c.unlocked():
        c.data.shards = "shards"
    return c


def recipe_of(stage, arg=""):
    return build(Recipe, config_of(stage, arg).to_dict())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("arg", ["", "preset=reference", "model=tiny", "model=tiny,heads=5", "preset=smoke"])
def test_every_stage_is_a_recipe(stage, arg):
    recipe = recipe_of(stage, arg)
    shapes = shapes_of(recipe.model)
    train, _ = split(shapes, recipe.stage.train)
    assert train
    assert not any(p.startswith(("clip/", "beats/")) for p in train)
    assert recipe.model.llama.lora.heads == (5 if "heads" in arg else 3)
    if stage in TRAINED and arg in ("", "preset=reference"):
        assert count(train) == TRAINED[stage]
    assert bool(recipe.loss.heads) == (stage in ("seg_pretrain", "finetune_avs", "finetune_avss"))


@pytest.mark.parametrize(
    ("stage", "rows", "epochs"),
    [("visual_pretrain", 64, 1), ("audio_pretrain", 32, 1), ("seg_pretrain", 64, 5), ("finetune", 256, 5),
     ("finetune_avs", 256, 30), ("finetune_avss", 256, 30)],
)  # fmt: skip
def test_the_reference_preset_is_the_published_recipe(stage, rows, epochs):
    """Specification 1.3, 1.4, 8.8 and the options of section 11."""
    recipe = recipe_of(stage, "preset=reference")
    assert (recipe.run.rows, recipe.run.epochs, recipe.data.packed) == (rows, epochs, False)
    assert (recipe.optim.schedule, recipe.optim.learning_rate, recipe.optim.warmup_ratio) == ("log_linear", 1e-4, 0.03)
    assert (recipe.optim.b1, recipe.optim.b2, recipe.optim.eps, recipe.optim.weight_decay) == (0.9, 0.999, 1e-8, 0)
    assert recipe.optim.max_grad_norm == 1.0
    assert recipe.data.choose == ("all" if stage in ("finetune_avs", "finetune_avss") else "one")
    assert recipe.compute.dtype == recipe.compute.frozen_dtype == "float32"
    assert recipe.model.llama.lora.dropout_masks == "per_head"
    assert not recipe.data.weights
    if recipe.loss.heads:
        assert (recipe.loss.mask_reduction, recipe.loss.mask_group) == ("sum", 16)
        assert (recipe.loss.bce, recipe.loss.dice, recipe.loss.semantic) == (1.0, 0.5, 1.0)
    ours = recipe_of(stage)
    assert (ours.optim.schedule, ours.data.packed, ours.loss.mask_reduction) == ("cosine", True, "mean")
    assert ours.model.llama.lora.dropout_masks == "shared"


def test_ablations():
    full = recipe_of("finetune", "model=tiny,train=full")
    shapes = shapes_of(tiny_config())
    train, frozen = split(shapes, full.stage.train)
    assert set(frozen) == {"mask_decoder/pe/level0", "mask_decoder/pe/level1"}
    assert full.stage.train_encoders
    plain = recipe_of("finetune", "train=lora,heads=5")
    assert plain.model.llama.lora.heads == 1
    train, _ = split(shapes_of(plain.model), plain.stage.train)
    assert not any("route" in p for p in train)
    assert any("lora_b" in p for p in train)
    assert recipe_of("finetune", "tasks=ave+avqa").data.sources == ("avqa/train", "ave/train")
    with pytest.raises(ConfigError, match=r"'vl_projecto/.*' matches none of .* clip, .*see stage.train"):
        split(shapes, ("vl_projecto/.*",))
    with_head = recipe_of("visual_pretrain", "head=trained")
    assert "llama/head/.*" in with_head.stage.train


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("head=5", "expected NAME=VALUE with one of preset, model, heads"),
        ("heads=three", "expected a whole number"),
        ("preset=paper", "expected one of recommended, reference, smoke"),
        ("tasks=avqa+avx", "'avx' is none of avqa"),
        ("model=llama", "no such file in configs/"),
        ("heads", "expected NAME=VALUE"),
        ("heads=3,model=tiny,heads=5", "'heads=5': heads is given twice"),
        ("model=base,heads=5", "model=base has the LoRA heads of the weights folder"),
        ("train=lora,model=base", "model=base has the LoRA heads of the weights folder"),
    ],
)
def test_arguments_that_cannot_be(arg, message):
    with pytest.raises(ValueError, match=message):
        config_of("finetune", arg)
    with pytest.raises(ValueError, match="this stage trains no LoRA"):
        config_of("finetune_avs", "train=lora")


def test_locked_and_typed():
    c = importlib.import_module("configs.finetune").get_config()
    assert isinstance(c, ConfigDict)
    with pytest.raises(AttributeError):
        c.run.step = 3
    with pytest.raises(TypeError):
        c.run.steps = "many"


def test_what_a_layer_may_keep_is_a_policy():
    """`jax.checkpoint_policies` also holds functions that make policies; only the step would notice."""
    x = jnp.ones((2, 2))
    known = f"expected 'none' or one of {', '.join(POLICIES)}$"
    for name in (n for n in dir(jax.checkpoint_policies) if not n.startswith("_")):
        if name in POLICIES:
            policy = getattr(jax.checkpoint_policies, ComputeConfig(remat=name).remat)
            assert jax.grad(jax.checkpoint(lambda x: jnp.sin(x @ x).sum(), policy=policy))(x).shape == x.shape
        else:
            with pytest.raises(ConfigError, match=f"remat is '{name}', {known}"):
                ComputeConfig(remat=name)


def test_recipes_that_cannot_be():
    values = config_of("finetune_avs", "model=tiny").to_dict()
    for change, message in [
        ({"model": None}, "stage.base, a weights folder"),
        ({"stage": values["stage"] | {"train": ()}}, "nothing would be trained"),
        ({"stage": values["stage"] | {"train": ("vl_projector/(.*",)}}, r"stage.train: .* is no regular expression"),
        ({"stage": values["stage"] | {"fresh": ("[",)}}, "stage.fresh: .* is no regular expression"),
        ({"stage": values["stage"] | {"base": "gs://b/w"}}, "stage.base is gs://b/w, expected a path"),
        ({"stage": values["stage"] | {"start": ("runs/a", "s3://b/w")}}, "stage.start is s3://b/w, expected a path"),
        ({"data": values["data"] | {"shards": "gs://b/s"}}, "data.shards is gs://b/s, expected a path"),
        ({"data": values["data"] | {"sources": ("avqa",)}}, "expected task/split"),
        ({"data": values["data"] | {"sources": ("ms3/train", "avq/train")}}, "'avq/train' .* known: avqa, ave"),
        ({"data": values["data"] | {"weights": (1.0,)}}, "1 of them for 3 sources"),
        ({"compute": values["compute"] | {"logit_chunks": 7}}, "7 does not divide"),
        ({"compute": values["compute"] | {"remat": "everything"}}, "expected 'none' or one of"),
        ({"data": values["data"] | {"layout": values["data"]["layout"] | {"masks": 0}}}, "give room for masks"),
        ({"loss": values["loss"] | {"heads": ("semantic",)}}, "ms3/train has binary masks"),
        ({"optim": values["optim"] | {"learning_rat": 1.0}}, "learning_rat: unknown field"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(Recipe, values | change)
    with pytest.raises(ConfigError, match="dice is -1"):
        LossConfig(dice=-1.0)
