"""The recorded checkpoint files: what they hold, what they become, and that they come back byte for byte."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from recorded_model import INPUT_NORM_EPS, beats_file

from crab_jax import checkpoint
from crab_jax.config import build
from crab_jax.convert import crab, run
from crab_jax.convert.engine import export_rule
from crab_jax.convert.export import export
from crab_jax.convert.model_config import ModelNumbers
from crab_jax.convert.sources import open_source
from crab_jax.convert.unsaved import PE_TENSORS

WEIGHTS = "c09_weights"


def numbers(config: dict) -> ModelNumbers:
    """The model config of a recorded run, from its manifest."""
    bert, seg, derived = config["bert"], config["seg"], config["derived"]
    projector = {
        "num_heads": bert["num_attention_heads"],
        "layer_norm_eps": bert["layer_norm_eps"],
        "input_norm_eps": derived.get("projector_layernorm_eps", INPUT_NORM_EPS),
        "hidden_act": derived["qformer_hidden_act"].split()[0],
        "dropout": 0.0,
        "cross_attention_freq": derived["qformer_cross_attention_freq"],
    }
    values = {
        "base_vocabulary": config["vocab"],
        "clip_taps": config["select_layer_list"],
        "lora": {
            "alpha": config["lora"]["lora_alpha"],
            "dropout": config["lora"]["lora_dropout"],
            "dropout_masks": "per_head",
        },
        "vl_projector": projector,
        "al_projector": projector,
        "mask_decoder": {
            "num_heads": derived["seg_two_way_heads"],
            "query_heads": derived["query_generator_heads"],
            "low_res": seg["low_res_mask_size"],
            "levels": seg["image_scale_nums"],
            "tokens_per_level": seg["token_nums_per_scale"],
        },
    }
    return build(ModelNumbers, values)


def inputs(folder: pathlib.Path) -> crab.Inputs:
    hf = folder / "hf"
    return crab.Inputs(
        llama=hf / "llama", clip=hf / "clip", beats=beats_file(folder), **run.find_crab_files(folder / "ckpt")
    )


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Converts the files beside a case, once per folder."""
    done: dict[pathlib.Path, pathlib.Path] = {}

    def convert(case) -> pathlib.Path:
        if not (case.folder / "ckpt").is_dir():
            pytest.skip(f"no checkpoint files beside {case.path}")
        if case.folder not in done:
            weights = case.sibling(WEIGHTS)
            out = tmp_path_factory.mktemp("converted") / "weights"
            pe = str(weights.path.with_suffix(".npz"))
            run.convert(inputs(case.folder), out, numbers=numbers(weights.config), pe=pe)
            done[case.folder] = out
        return done[case.folder]

    return convert


@pytest.mark.case("c09_checkpoints")
def test_manifest_of_the_files(case):
    """Names, their order, sizes and sums of every file are those of the manifest."""
    listed = {pathlib.Path(entry["path"]).name for entry in case.manifest["files"]}
    assert listed == set(case.manifest["keys"])
    with case.exactly("names, order, sizes and sums of the files"):
        for name, wanted in case.manifest["keys"].items():
            source = open_source(case.folder / "ckpt" / name)
            names = source.names()
            assert len(names) == wanted["n"], name
            assert names[: len(wanted["first"])] == wanted["first"], name
            assert names[-len(wanted["last"]) :] == wanted["last"], name
            arrays = [source.read(n) for n in names]
            assert sum(x.size for x in arrays) == wanted["total_elements"], name
            total = sum(float(x.astype(np.float64).sum()) for x in arrays)
            assert total == pytest.approx(wanted["sum"], rel=1e-9, abs=1e-6), name


@pytest.mark.case("c09_checkpoints")
def test_every_tensor_of_the_model(case, converted):
    """The converted weights, under the names of the reference, are its state dict, tensor for tensor."""
    reference = case.sibling(WEIGHTS)
    variant = state_recorded(converted(case))
    weights = checkpoint.load(converted(case), variant=variant)
    ours: dict[str, np.ndarray] = {}
    for part in ("llama", "vl_projector", "al_projector", "mask_decoder"):
        prefix = f"{part}/"
        for rule in crab.table(part, getattr(weights.config, part)).rules:
            for key, x in export_rule(rule, weights.params[prefix + rule.path]):
                ours[f"{part}.{key}"] = x
    ours |= {f"mask_decoder.{name}": weights.params[f"mask_decoder/{path}"] for path, name in PE_TENSORS.items()}
    kept: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for (role, name), x in checkpoint.stream(converted(case), weights.manifest, "kept"):
        kept.setdefault(role, {})[crab.locate(role, name)] = x

    unused, checked = [], set()
    with case.exactly("every tensor of the model"):
        for name in reference.tensors:
            part, key = crab.locate("finetune", name)
            if f"{part}.{key}" in ours:
                x = ours[f"{part}.{key}"]
                assert x.dtype == reference[name].dtype, name
                np.testing.assert_array_equal(x, reference[name], err_msg=name)
                checked.add(f"{part}.{key}")
            else:
                unused.append((name, part, key))
        assert checked == set(ours), "parameters that the reference does not have"
        for name, part, key in unused:
            table = crab.table(part, getattr(weights.config, part))
            if table.why_ignored(key) is None:
                assert key in table.unused, f"{name} is nowhere"
                role = (variant or "segmentation_pretrain") if part == "mask_decoder" else "finetune"
                np.testing.assert_array_equal(kept[role][part, key], reference[name], err_msg=name)


@pytest.mark.case("c09_checkpoints")
def test_sizes_are_those_of_the_manifest(case, converted):
    manifest, variant = checkpoint.read_manifest(converted(case)), state_recorded(converted(case))
    config = checkpoint.read_config(converted(case), manifest, variant)
    report = json.loads((converted(case) / "report.json").read_text())
    c = case.sibling(WEIGHTS).config
    decoder = "mask_decoder" if variant is None else f"{variant}/mask_decoder"
    queries = {
        "vl_projector": c["visual_query_token_nums"],
        "al_projector": c["audio_query_token_nums"],
        decoder: c["seg"]["avs_query_num"],
    }
    with case.exactly("sizes in the report and in the config"):
        assert report["sizes"]["lora_heads"] == c["lora"]["lora_nums"]
        assert report["sizes"]["lora_rank"] == c["lora"]["r"]
        assert {part: report["sizes"]["queries"][part] for part in queries} == queries
        for what in ("missing", "misshapen", "unexpected"):
            assert not report[what], what
        assert config.llama.lora.scale == pytest.approx(c["derived"]["lora_scaling"])
        assert config.vl_projector.num_layers == c["derived"]["qformer_num_hidden_layers"]
        assert config.vl_projector.proj_depth == c["derived"]["projector_mlp_depth"]
        assert config.mask_decoder.grid == c["derived"]["image_embedding_size"]
        assert config.mask_decoder.mlp_dim == c["derived"]["seg_two_way_mlp_dim"]
        assert config.mask_decoder.downsample == c["derived"]["seg_attention_downsample_rate"]
        assert config.mask_decoder.query_mlp_dim == c["derived"]["query_generator_hidden_dim"]


def state_recorded(folder: pathlib.Path) -> str | None:
    """The overlay that belongs to the recorded state: the first, or None if no file brought one."""
    return next(iter(checkpoint.read_manifest(folder)["overlays"]), None)


@pytest.mark.case("c09_checkpoints")
def test_export_is_the_original(case, converted, tmp_path):
    """Names, order, dtypes and bytes, as PyTorch itself reads both."""
    torch = pytest.importorskip("torch")
    export(converted(case), tmp_path / "out")
    pairs = {name: (case.folder / "ckpt" / name, tmp_path / "out" / name) for name in case.manifest["keys"]}
    beats = beats_file(case.folder)
    pairs["beats"] = (beats, tmp_path / "out" / "beats" / beats.name)
    with case.exactly("exported names, order, dtypes and bytes"):
        for name, (original, ours) in pairs.items():
            want, got = (torch.load(path, weights_only=True) for path in (original, ours))
            if name == "beats":
                assert got["cfg"] == want["cfg"]
                want, got = want["model"], got["model"]
            check_torch(got, want, name)
        for folder in ("llama", "clip"):
            for original in sorted((case.folder / "hf" / folder).iterdir()):
                check_exported(original, tmp_path / "out" / folder / original.name, torch)


def check_torch(got, want, where):
    assert list(got) == list(want), where
    for key in want:
        assert got[key].dtype == want[key].dtype, key
        assert got[key].equal(want[key]), key


def check_exported(original: pathlib.Path, ours: pathlib.Path, torch) -> None:
    """Weights tensor by tensor, because their files may be aligned in another way; all other files byte by byte."""
    if original.suffix == ".bin":
        check_torch(*(torch.load(path, weights_only=True) for path in (ours, original)), original.name)
    elif original.suffix == ".safetensors":
        want, got = open_source(original), open_source(ours)
        assert got.names() == want.names()
        for key in want.names():
            assert got.dtype(key) == want.dtype(key), key
            assert got.read(key).tobytes() == want.read(key).tobytes(), key
    else:
        assert ours.read_bytes() == original.read_bytes(), original.name
