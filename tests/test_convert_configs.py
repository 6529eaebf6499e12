"""Configs that come with the files, and the model config: what is read, and every error."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

torch = pytest.importorskip("torch")

import converted_files  # noqa: E402
import published_files as files  # noqa: E402
from converted_files import plan_of  # noqa: E402

from configs import published  # noqa: E402
from crab_jax.config import LARGEST, ConfigError, build  # noqa: E402
from crab_jax.convert import model_config  # noqa: E402
from crab_jax.convert.plan import make_plan  # noqa: E402
from crab_jax.convert.report import ConversionError  # noqa: E402
from crab_jax.model import CrabConfig  # noqa: E402

original, broken = converted_files.original, converted_files.broken  # fixtures


@pytest.mark.parametrize(
    ("role", "field", "value", "message"),
    [
        ("llama", "num_hidden_layers", 10**9, "claims 1000000000 layers"),
        ("llama", "hidden_size", "wide", "llama: "),
        ("llama", "num_attention_heads", 0, "num_heads is 0"),
        ("llama", "num_attention_heads", 64, "64 heads of 1"),
        ("llama", "num_key_value_heads", 3, "num_heads 4 does not divide by num_kv_heads 3"),
        ("llama", "rms_norm_eps", float("nan"), "rms_norm_eps is nan"),
        ("llama", "rope_theta", -1, "rope_theta is -1.0"),
        ("llama", "hidden_size", 10**12, "hidden_size is 1000000000000"),
        ("clip", "vision_config", {"image_size": 10**9, "patch_size": 1}, "image_size is 1000000000"),
        (
            "clip",
            "vision_config",
            {"image_size": 2**24, "patch_size": 1, "hidden_size": 2**24},
            "does not divide|wrong",
        ),
        ("llama", "rope_scaling", {"type": "linear"}, "rope_scaling"),
        ("llama", "hidden_size", 128, "wrong shape|do not belong"),
        ("clip", "model_type", "bert", "model_type is 'bert'"),
        ("clip", "vision_config", None, "no vision_config"),
    ],
)
def test_bad_original_config(broken, role, field, value, message):
    path = broken.path(role) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ConversionError, match=message):
        plan_of(broken, role)


@pytest.mark.parametrize(("text", "message"), [('{"a": 1,\n "b" 2}', "line 2"), ("[]", "expected a JSON object")])
def test_malformed_original_config(broken, text, message):
    (broken.path("clip") / "config.json").write_text(text)
    with pytest.raises(ConversionError, match=message):
        plan_of(broken, "clip")


@pytest.mark.parametrize(
    ("field", "value"), [("input_patch_size", 0), ("conv_pos", -1), ("encoder_layers", 0), ("num_buckets", 3)]
)
def test_bad_beats_config(broken, field, value):
    cfg = files.beats_cfg(broken.config.beats) | {field: value}
    model = {k: files.to_torch(x) for k, x in broken.tensors["beats"].items()}
    torch.save({"cfg": cfg, "model": model}, broken.path("beats"))
    with pytest.raises(ConversionError, match=f"beats: {field} is {value}"):
        plan_of(broken, "beats")


def test_a_claim_beyond_any_shape(broken):
    """Sizes whose product no array can have are an error in words, too."""
    path = broken.path("clip") / "config.json"
    most = {"image_size": LARGEST, "patch_size": 1, "hidden_size": LARGEST, "num_attention_heads": LARGEST}
    path.write_text(json.dumps({"model_type": "clip", "vision_config": most | {"num_hidden_layers": 4}}))
    with pytest.raises(ConversionError, match=r"position_embedding.weight: .*expected one for a parameter"):
        plan_of(broken, "clip")


def test_beats_without_its_config(broken):
    files.save(broken.path("beats"), broken.tensors["beats"])
    with pytest.raises(ConversionError, match="no 'cfg' beside 'model'"):
        plan_of(broken, "beats")


def test_published_model_config():
    numbers = model_config.load()
    config = build(CrabConfig, published.get_config().model.to_dict())
    assert dataclasses.replace(numbers.mask_decoder, pretrain_low_res=None) == files.numbers(config).mask_decoder
    assert dataclasses.replace(numbers, mask_decoder=files.numbers(config).mask_decoder) == files.numbers(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(speed=1), "unknown field"),
        (lambda v: v.pop("clip_taps"), "clip_taps: missing"),
        (lambda v: v["lora"].update(alpha="16"), "lora.alpha: expected float"),
        (lambda v: v["mask_decoder"].pop("low_res"), "mask_decoder.low_res: missing"),
        (lambda v: v["vl_projector"].update(hidden_act="swish"), "is not one of"),
    ],
)
def test_bad_model_config(tmp_path, change, message):
    values = json.loads(model_config.PUBLISHED.read_text())
    change(values)
    (tmp_path / "m.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        model_config.load(tmp_path / "m.json")


def test_malformed_model_config(tmp_path):
    (tmp_path / "m.json").write_text('{\n  "base_vocabulary": 3,\n  "clip_taps" [1]\n}')
    with pytest.raises(ConfigError, match=r"m.json, line 3, column \d+: not JSON"):
        model_config.load(tmp_path / "m.json")


def test_heads_that_do_not_divide(original):
    numbers = files.numbers(original.config)
    numbers = dataclasses.replace(numbers, vl_projector=dataclasses.replace(numbers.vl_projector, num_heads=7))
    with pytest.raises(ConversionError, match=r"vl_projector: .*num_heads 7"):
        make_plan(original.inputs("finetune"), numbers)


def test_grid_comes_from_clip_or_from_the_model_config(original):
    numbers = files.numbers(original.config)

    def with_grid(grid, size):
        return dataclasses.replace(
            numbers, mask_decoder=dataclasses.replace(numbers.mask_decoder, grid=grid, image_size=size)
        )

    assert make_plan(original.inputs("clip", "avs"), with_grid(None, None)).overlay_configs["avs"].grid == 8
    with pytest.raises(ConversionError, match=r"grid is unknown: give the CLIP folder, or mask_decoder.grid"):
        make_plan(original.inputs("avs"), with_grid(None, 112))
    with pytest.raises(ConversionError, match="image_size is 224 in the model config, but 112 in the CLIP folder"):
        make_plan(original.inputs("clip", "avs"), with_grid(8, 224))


def test_segmentation_pretrain_has_its_own_resolution(original):
    numbers = files.numbers(original.config)
    numbers = dataclasses.replace(numbers, mask_decoder=dataclasses.replace(numbers.mask_decoder, pretrain_low_res=64))
    plan = make_plan(original.inputs("segmentation_pretrain", "avs"), numbers)
    assert plan.config.mask_decoder.low_res == 64
    assert plan.overlay_configs["avs"].low_res == numbers.mask_decoder.low_res


def test_the_documented_example_and_fields():
    """docs/conversion.md: its JSON file is one, and its table names every field."""
    text = (pathlib.Path(__file__).parents[1] / "docs" / "conversion.md").read_text()
    example = json.loads(text.split("```json")[1].split("```")[0])
    assert build(model_config.ModelNumbers, example).base_vocabulary == 512
    for name, value in json.loads(model_config.PUBLISHED.read_text()).items():
        for field in [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]:
            assert f"`{field}`" in text or field.startswith("al_projector."), field
    for option in ("--new-rows", "--pe", "--model-config", "--dtype", "--keep", "--lossy"):
        assert option in text
