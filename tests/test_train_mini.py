"""The recipe of crab-mini: that its stages fit together, the model, and each other."""

import re

import jax
import numpy as np
import pytest

from configs import train_mini
from crab_jax.backbones.qformer import QFormer
from crab_jax.config import build
from crab_jax.model import abstract
from crab_jax.params import split
from crab_jax.recipe import Recipe
from crab_jax.tasks import ALL, TASKS


def recipe(argument):
    config = train_mini.get_config(argument).to_dict()
    config["data"]["shards"] = "shards"
    return build(Recipe, config)


@pytest.mark.parametrize("stage", train_mini.STAGES)
def test_a_stage_is_a_whole_recipe(stage):
    r = recipe(f"{stage},runs=elsewhere")
    assert r.stage.name == stage
    assert all(s.split("/")[0] in ALL for s in r.data.sources)
    assert [s.split("/")[0] for s in r.stage.start] == ["elsewhere"] * len(r.stage.start)
    trained, frozen = split(abstract(r.model), r.stage.train)
    assert trained
    assert "mask_decoder/pe/level0" in frozen
    encoders = any(path.startswith(("clip/", "beats/")) for path in trained)
    assert not encoders
    assert r.data.layout.masks or not r.loss.heads


def test_a_stage_starts_from_what_its_weights_were_trained_by():
    """All parts, then the stages in their order: what was trained later goes before what was trained earlier."""
    stages = list(train_mini.STAGES)
    parts = [f"{n}.safetensors" for n in ("eye", "ear", "vl_projector", "al_projector", "decoder", "language")]
    for stage, values in train_mini.STAGES.items():
        before = stages[: min(stages.index(stage), stages.index("finetune_avs"))]
        assert [*values["start"]] == [*parts, *before]


def test_together_encoders_and_stages_train_every_weight():
    left = set(abstract(recipe("finetune").model))
    for stage in train_mini.STAGES:
        left = {p for p in left if not any(re.fullmatch(t, p) for t in recipe(stage).stage.train)}
    left = {p for p in left if not p.startswith(("clip/", "beats/"))}  # of launch.pretrain_parts
    assert left == {"mask_decoder/pe/level0", "mask_decoder/pe/level1"}


def test_the_joint_stage_learns_all_tasks():
    assert {s.split("/")[0] for s in recipe("finetune").data.sources} == set(TASKS)


def test_longer_training_is_a_number():
    assert recipe("finetune,scale=2.5").run.steps == round(2.5 * recipe("finetune").run.steps)
    assert recipe("finetune,scale=0.0001").run.steps == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [("finetun", "expected one of visual_pretrain"), ("finetune,rows=3", "expected runs=DIR or scale=N")],
)
def test_arguments_that_cannot_be(argument, message):
    with pytest.raises(ValueError, match=message):
        train_mini.get_config(argument)


def test_projectors_let_through_what_differs_between_pictures():
    """At BERT's 0.02 it is 0.6 % at this width, and a model learns to speak without looking (docs/mini.md)."""
    config = recipe("visual_pretrain").model.vl_projector
    rng = np.random.default_rng(0)
    shared, own = (rng.standard_normal((n, 64, config.encoder_width), np.float32) for n in (1, 16))
    projector = QFormer(config)
    tokens, _ = jax.jit(lambda key, x: projector.init_with_output(key, x))(jax.random.key(0), (shared + own) / 2**0.5)
    differs, size = np.sqrt(np.var(tokens, axis=0).mean()), np.sqrt(np.mean(np.square(tokens)))
    assert differs > 0.1 * size
