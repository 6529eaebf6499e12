"""The published model by shapes alone: numbers of tensors and parameters of specification 1.2, 2.3 and 6.4."""

import math

import pytest

from configs import published
from crab_jax.backbones import llama, mask_decoder, qformer
from crab_jax.config import build, to_dict
from crab_jax.model import CrabConfig, abstract
from crab_jax.params import count, subtree
from crab_jax.weights import WeightTable


@pytest.fixture(scope="module")
def config() -> CrabConfig:
    return build(CrabConfig, published.get_config().model.to_dict())


@pytest.fixture(scope="module")
def shapes(config):
    return abstract(config)


def tensors(table: WeightTable) -> list[str]:
    return [key for rule in table.rules for _, key in rule.keys()] + list(table.unused)


def unused(table: WeightTable) -> int:
    return sum(math.prod(shape) for shape in table.unused.values())


def check_paths(table: WeightTable, params) -> None:
    """Every parameter has exactly one rule, every rule a parameter of its stacking."""
    paths = [rule.path for rule in table.rules]
    assert len(paths) == len(set(paths))
    assert set(paths) | set(table.absent) == set(params)
    for rule in table.rules:
        stacked = tuple(rule.counts.values())
        assert params[rule.path].shape[: len(stacked)] == stacked, rule.path


@pytest.mark.parametrize(
    ("part", "kind", "parameters"), [("vl_projector", "visual", 73_553_978), ("al_projector", "audio", 72_767_034)]
)
def test_projectors(config, shapes, part, kind, parameters):
    table = qformer.weight_table(getattr(config, part), kind=kind)
    check_paths(table, subtree(shapes, part))
    assert len(tensors(table)) == 80
    assert count(subtree(shapes, part)) + unused(table) == parameters
    assert unused(table) == 33_904_698


@pytest.mark.parametrize(("heads", "parameters"), [(1, 21_127_168), (3, 45_162_496), (5, 69_197_824)])
def test_lora(heads, parameters):
    values = published.get_config().model.to_dict()
    values["llama"]["lora"]["heads"] = heads
    config = build(CrabConfig, {"llama": values["llama"]})
    params = subtree(abstract(config), "llama")
    check_paths(llama.weight_table(config.llama), params)
    adapters = {p: x for p, x in params.items() if "lora" in p}
    assert count(adapters) == parameters
    names = [key for key in tensors(llama.weight_table(config.llama)) if "lora" in key]
    assert len(names) == 32 * 7 * (2 + heads)
    if heads == 3:
        assert len(names) == 1120


def test_llama(config, shapes):
    params = subtree(shapes, "llama")
    assert count({p: x for p, x in params.items() if "lora" not in p}) == 6_738_415_616 + 2 * 17 * 4096
    for matrix in ("embed/embedding", "head/kernel"):
        assert count({matrix: params[matrix]}) == 131_141_632


@pytest.mark.parametrize(("queries", "parameters"), [(300, 29_089_696), (128, 29_001_632)])
def test_mask_decoder(queries, parameters):
    values = published.get_config().model.to_dict()
    values["mask_decoder"]["num_queries"] = queries
    config = build(CrabConfig, values)
    params = subtree(abstract(config), "mask_decoder")
    table = mask_decoder.weight_table(config.mask_decoder)
    check_paths(table, params)
    assert len(tensors(table)) == 235
    never_saved = count({p: params[p] for p in table.absent})
    assert count(params) - never_saved + unused(table) == parameters


def test_config_round_trip(config):
    assert build(CrabConfig, to_dict(config)) == config
