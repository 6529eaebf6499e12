"""Conversion and export of tiny random models: what comes back is what was in the files."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import converted_files  # noqa: E402
import published_files as files  # noqa: E402
from converted_files import check_export, same  # noqa: E402

from crab_jax import checkpoint  # noqa: E402
from crab_jax.config import to_dict  # noqa: E402
from crab_jax.convert import infer  # noqa: E402
from crab_jax.convert.crab import CRAB_FILES, PUBLIC, locate, table  # noqa: E402
from crab_jax.convert.engine import common_dtype, export_rule  # noqa: E402
from crab_jax.convert.export import ExportError, export  # noqa: E402
from crab_jax.convert.run import convert  # noqa: E402
from crab_jax.convert.sources import open_source  # noqa: E402
from crab_jax.model import CrabConfig  # noqa: E402

original, weights = converted_files.original, converted_files.weights  # fixtures

ROLES = (*PUBLIC, *CRAB_FILES)


def by_name(config: CrabConfig, params) -> dict[tuple[str, str], np.ndarray]:
    """Part and key → array in PyTorch layout, for every parameter that a file holds."""
    found = {}
    for part in dict.fromkeys(path.split("/", 1)[0] for path in params):
        for rule in table(part, getattr(config, part)).rules:
            for key, x in export_rule(rule, params[f"{part}/{rule.path}"]):
                found[part, key] = x
    return found


def shapes_of(config: CrabConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of the network with its shape."""
    parts = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {f"{part}/{path}": s for part, c in parts.items() if c for path, s in infer.shapes(part, c).items()}


def test_everything_round_trips(original, weights, tmp_path):
    check_export(original, weights, tmp_path / "out", ROLES)
    for name in (
        "llama/config.json",
        "llama/tokenizer.model",
        "llama/model.safetensors.index.json",
        "clip/config.json",
    ):
        assert (tmp_path / "out" / name).read_bytes() == (original.folder / name).read_bytes()
    again = torch.load(tmp_path / "out" / "beats" / "BEATs.pt", weights_only=True)
    assert again["cfg"] == files.beats_cfg(original.config.beats)
    shared = [x.data_ptr() for k, x in again["model"].items() if "relative_attention_bias" in k]
    assert len(shared) == original.config.beats.encoder_layers
    assert len(set(shared)) == 1, "one shared table became several"


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "single"), (ml_dtypes.bfloat16, "bin"), (np.float16, "bin")])
def test_llama_of_any_type_and_format(tmp_path, dtype, kind):
    made = files.write(tmp_path / "files", llama_dtype=dtype, llama_format=kind)
    convert(made.inputs("llama", "finetune"), tmp_path / "w", numbers=files.numbers(made.config), new_rows="random")
    weights = checkpoint.load(tmp_path / "w")
    assert weights.params["llama/layers/mlp/up/kernel"].dtype == np.dtype(dtype)
    assert weights.params["llama/embed/embedding"].dtype == np.dtype(dtype)
    assert weights.params["llama/layers/mlp/up/lora_b"].dtype == np.float32
    check_export(made, tmp_path / "w", tmp_path / "out", ("llama", "finetune"))


@pytest.mark.parametrize(
    "roles",
    [
        *((role,) for role in ROLES),
        ("clip", "visual_pretrain"),
        ("visual_pretrain", "audio_pretrain", "finetune"),
        ("segmentation_pretrain", "avs"),
        tuple(CRAB_FILES),
        ("llama", "beats", "avss"),
    ],
)
def test_any_subset(original, tmp_path, roles):
    report = convert(original.inputs(*roles), tmp_path / "w", numbers=files.numbers(original.config))
    assert not report.fatal
    check_export(original, tmp_path / "w", tmp_path / "out", roles)
    weights = checkpoint.load(tmp_path / "w")
    present = {path.split("/", 1)[0] for path in weights.params}
    assert present == {f.name for f in dataclasses.fields(CrabConfig)} - set(weights.config.missing())


def test_what_is_loaded_is_what_was_in_the_files(original, weights):
    expected = {}
    for role in ("llama", "clip", "beats", "segmentation_pretrain", "finetune"):  # what wins, in this order
        expected |= {locate(role, name): x for name, x in original.tensors[role].items()}
    loaded = checkpoint.load(weights)
    assert to_dict(loaded.config) == to_dict(original.config)
    found = by_name(loaded.config, loaded.params)
    for (part, key), x in found.items():
        if key in ("embed_tokens.weight", "lm_head.weight"):
            rows = original.tensors["avs"][f"base_model.model.{'' if key[0] == 'l' else 'model.'}{key}"]
            assert same(x[: files.BASE].astype(np.float16), expected[part, key])
            assert same(x[files.BASE :], rows[files.BASE :]), "rows of the added tokens come from the AVS file"
        else:
            assert same(x, expected[part, key]), (part, key)
    assert {p: x.shape for p, x in loaded.params.items()} == shapes_of(loaded.config)


@pytest.mark.parametrize("role", ["avs", "avss"])
def test_overlay(original, weights, role):
    base = checkpoint.load(weights)
    chosen = checkpoint.load(weights, variant=role)
    assert chosen.config.mask_decoder == original.overlay_config(role)
    assert base.config.mask_decoder.num_queries != chosen.config.mask_decoder.num_queries
    expected = {locate(role, name): x for name, x in original.tensors[role].items()}
    found = by_name(chosen.config, chosen.params)
    for place, x in found.items():
        if place in expected:
            assert same(x, expected[place]), place
    assert ("llama", "embed_tokens.weight") in expected
    switched = base.with_overlay(role)
    assert switched.config == chosen.config
    assert set(switched.params) == set(chosen.params)
    assert all(same(np.asarray(x), chosen.params[p]) for p, x in switched.params.items())
    assert {p: x.shape for p, x in chosen.params.items()} == shapes_of(chosen.config)


def test_pretrain_files_give_way_to_the_joint_file(original, tmp_path):
    roles = ("clip", "beats", "visual_pretrain", "audio_pretrain")
    convert(original.inputs(*roles), tmp_path / "early", numbers=files.numbers(original.config))
    early = checkpoint.load(tmp_path / "early").params["vl_projector/queries"]
    name = "vl_projector.visual_query_tokens"
    assert same(early, original.tensors["visual_pretrain"][f"model.{name}"][0])
    report = convert(original.inputs(*roles, "finetune"), tmp_path / "late", numbers=files.numbers(original.config))
    late = checkpoint.load(tmp_path / "late").params["vl_projector/queries"]
    assert same(late, original.tensors["finetune"][f"base_model.model.model.{name}"][0])
    assert f"visual_pretrain: model.{name} (by finetune)" in report.superseded


def test_keeping_less(original, tmp_path):
    roles = ("clip", "visual_pretrain", "finetune")
    for keep, complete in (("none", ()), ("crab", roles[1:])):
        out = tmp_path / keep
        convert(original.inputs(*roles), out, numbers=files.numbers(original.config), keep=keep)
        dropped = export(out, tmp_path / f"{keep}-out").dropped
        assert set(dropped) == set(roles) - set(complete)
        assert "text_model.final_layer_norm.weight" in dropped["clip"]
        for role in complete:
            again = open_source(tmp_path / f"{keep}-out" / CRAB_FILES[role])
            assert again.names() == list(original.tensors[role])
    loaded = [checkpoint.load(tmp_path / keep).params for keep in ("none", "crab")]
    assert all(same(loaded[0][p], x) for p, x in loaded[1].items())


def test_dtype_rounds_and_export_says_so(original, tmp_path):
    convert(
        original.inputs("clip", "finetune"), tmp_path / "w", numbers=files.numbers(original.config), dtype="bfloat16"
    )
    weights = checkpoint.load(tmp_path / "w")
    assert {x.dtype for x in weights.params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    name = "vision_model.embeddings.class_embedding"
    want = original.tensors["clip"][name].astype(ml_dtypes.bfloat16)
    assert same(weights.params["clip/class_token"], want)
    with pytest.raises(ExportError, match="rounded"):
        export(tmp_path / "w", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = export(tmp_path / "w", tmp_path / "out", lossy=True)
    assert f"clip: {name}" in result.rounded
    assert same(open_source(tmp_path / "out" / "clip").read(name), want.astype(np.float32))


def test_half_precision_is_exact_in_single(tmp_path):
    """Rounding is about values: float16 files stored as float32 come back byte for byte."""
    made = files.write(tmp_path / "files")
    convert(made.inputs("llama"), tmp_path / "w", numbers=files.numbers(made.config), dtype="float32")
    check_export(made, tmp_path / "w", tmp_path / "out", ("llama",))


def test_common_dtype():
    half, brain, single = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
    assert common_dtype(half, half) == half
    assert common_dtype(half, brain) == single
    assert common_dtype(brain, single) == single
