"""Conversion and export of tiny random models in the published formats: laws, subsets, and every error."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import published_files as files  # noqa: E402

from configs import published  # noqa: E402
from crab_jax import checkpoint, groups  # noqa: E402
from crab_jax.checkpoint import CheckpointError  # noqa: E402
from crab_jax.config import LARGEST, ConfigError, build, to_dict  # noqa: E402
from crab_jax.convert import command, infer, model_config, unsaved  # noqa: E402
from crab_jax.convert.crab import CRAB_FILES, PUBLIC, Inputs, locate, table  # noqa: E402
from crab_jax.convert.engine import common_dtype, export_rule  # noqa: E402
from crab_jax.convert.export import ExportError, export  # noqa: E402
from crab_jax.convert.plan import make_plan  # noqa: E402
from crab_jax.convert.report import ConversionError, fold  # noqa: E402
from crab_jax.convert.run import convert, find_crab_files  # noqa: E402
from crab_jax.convert.sources import SourceError, Tensor, open_source, write_safetensors  # noqa: E402
from crab_jax.model import CrabConfig  # noqa: E402

ROLES = (*PUBLIC, *CRAB_FILES)
# After a damaged chunk Orbax abandons its other reads; they then complain to nobody about a closed event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A whole set of files; read only."""
    return files.write(tmp_path_factory.mktemp("published") / "files")


@pytest.fixture(scope="module")
def weights(original, tmp_path_factory):
    """The whole set, converted; read only."""
    out = tmp_path_factory.mktemp("converted") / "weights"
    convert(original.inputs(), out, numbers=files.numbers(original.config))
    return out


@pytest.fixture
def broken(original, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(original.folder, tmp_path / "files")
    tensors = {role: dict(tensors) for role, tensors in original.tensors.items()}
    return files.Published(tmp_path / "files", original.config, tensors)


def plan_of(made, *roles, **kwargs):
    return make_plan(made.inputs(*roles), files.numbers(made.config), **kwargs)


def same(x, y) -> bool:
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


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


def check_export(made, weights: pathlib.Path, out: pathlib.Path, roles) -> None:
    """The exported files are the original ones: names, order, dtypes, bytes."""
    result = export(weights, out)
    assert not result.dropped
    for role in roles:
        path = {"llama": out / "llama", "clip": out / "clip", "beats": out / "beats" / "BEATs.pt"}.get(
            role, out / CRAB_FILES.get(role, "")
        )
        again = open_source(path)
        assert again.names() == list(made.tensors[role]), role
        for name, x in made.tensors[role].items():
            assert same(again.read(name), x), (role, name)
        for file in again.files:
            if again.format == "torch":
                loaded = torch.load(file, weights_only=True)
                assert set(loaded.get("model", loaded)) <= set(made.tensors[role])


# --- round trips ------------------------------------------------------------------------------------------------------


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


# --- tensors that no file holds ---------------------------------------------------------------------------------------


def test_default_sources_are_reported(original):
    report = plan_of(original).report
    assert "avs_finetune_weights.bin" in report.sources["embed_tokens rows 40 to 56"]
    assert all("random" in v for k, v in report.sources.items() if "/pe/" in k)
    without = plan_of(original, "llama").report
    assert "random" in without.sources["lm_head rows 40 to 56"]


@pytest.mark.parametrize("choice", ["zeros", "random", "avs"])
def test_new_rows(original, choice):
    plan = plan_of(original, new_rows=choice)
    embed = np.asarray(plan.params["llama/embed/embedding"])[files.BASE :]
    head = np.asarray(plan.params["llama/head/kernel"]).T[files.BASE :]
    if choice == "zeros":
        assert not embed.any()
    elif choice == "random":
        assert embed.std() == pytest.approx(0.02, rel=0.2)
        assert not np.array_equal(embed, head)
        again = np.asarray(plan_of(original, new_rows=choice).params["llama/embed/embedding"])[files.BASE :]
        np.testing.assert_array_equal(embed, again)
    else:
        np.testing.assert_array_equal(
            embed, original.tensors["avs"]["base_model.model.model.embed_tokens.weight"][-17:]
        )
        np.testing.assert_array_equal(head, original.tensors["avs"]["base_model.model.lm_head.weight"][-17:])


def test_rows_of_the_other_overlay(original):
    plan = plan_of(original, "llama", "avss")
    assert "avss_finetune_weights.bin" in plan.report.sources["lm_head rows 40 to 56"]
    head = np.asarray(plan.params["llama/head/kernel"]).T[files.BASE :]
    np.testing.assert_array_equal(head, original.tensors["avss"]["base_model.model.lm_head.weight"][-17:])


def test_new_rows_that_do_not_fit(original):
    with pytest.raises(ConversionError, match=r"T3.*4096.*this model|T3: these rows have the width 4096"):
        plan_of(original, new_rows="T3")
    with pytest.raises(ConversionError, match="no AVS file is given"):
        plan_of(original, "llama", new_rows="avs")


def test_published_candidates():
    """First values of specification D, and the defaults of the published sizes."""
    assert unsaved.default_rows(4096, 32000, has_avs=True) == "T3"
    assert unsaved.default_rows(4096, 32001, has_avs=True) == "avs"
    assert unsaved.default_rows(64, 32000, has_avs=False) == "random"
    rows, about = unsaved.new_rows("I3", "lm_head", 4096, avs=None)
    assert rows.shape == (17, 4096)
    assert "inference" in about
    first = {
        "T3": ([-0.65633, 0.95003, 0.97293, 0.19386], [1.43082, 1.53868, 0.37176, 1.91114]),
        "I3": ([-0.60247, -0.07533, -1.04321, 1.76182], [0.68476, -0.48713, 0.58718, 1.49001]),
    }
    for choice, wanted in first.items():
        found, _ = unsaved.frequencies(choice, 256)
        for path, values in zip(("pe/level0", "pe/level1"), wanted, strict=True):
            np.testing.assert_allclose(np.asarray(found[path])[0, :4], values, atol=1e-5)
    default, about = unsaved.frequencies(None, 256)
    assert about.startswith("T3")
    assert np.asarray(default["pe/level0"])[0, 0] == pytest.approx(-0.65633, abs=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_frequencies_from_a_file(original, tmp_path, suffix):
    arrays = files.frequencies(original.config)
    path = tmp_path / f"pe{suffix}"
    np.savez(path, **arrays) if suffix == ".npz" else write_safetensors(path, arrays)
    plan = plan_of(original, pe=str(path))
    for values in (plan.params, plan.overlays["avs"]):
        for ours, name in unsaved.PE_TENSORS.items():
            (want,) = (x for k, x in arrays.items() if k.endswith(name))
            np.testing.assert_array_equal(np.asarray(values[f"mask_decoder/{ours}"]), want)


def test_frequencies_in_the_file_itself(broken, tmp_path):
    """A whole state dict has the buffers; then they are what the weights were trained with."""
    arrays = files.frequencies(broken.config)
    broken.rewrite("avs", lambda tensors: tensors.update(arrays))
    plan = plan_of(broken, "avs")
    assert all(v == "the file itself" for k, v in plan.report.sources.items() if "/pe/" in k)
    value = np.asarray(plan.overlays["avs"]["mask_decoder/pe/level0"])
    assert same(value, next(iter(arrays.values())))
    explicit = plan_of(broken, "avs", pe="random")
    assert not np.array_equal(np.asarray(explicit.overlays["avs"]["mask_decoder/pe/level0"]), value)
    assert any("replaced by --pe" in reason for reason in explicit.report.ignored)
    convert(broken.inputs("avs"), tmp_path / "w", numbers=files.numbers(broken.config))
    check_export(broken, tmp_path / "w", tmp_path / "out", ("avs",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, x: None, "no such file|No such file"),
        (lambda path, x: path.write_text("hello"), "cannot be read"),
        (lambda path, x: np.savez(path, other=x), "found 0"),
        (
            lambda path, x: np.savez(path, **{f"{k}{n}": x for n in unsaved.PE_TENSORS.values() for k in "ab"}),
            "found 2",
        ),
        (lambda path, x: np.savez(path, **{n: x[:1] for n in unsaved.PE_TENSORS.values()}), "has the shape"),
    ],
)
def test_bad_frequencies(original, tmp_path, make, message):
    path = tmp_path / "pe.npz"
    make(path, np.zeros((2, original.config.mask_decoder.prompt_dim // 2), np.float32))
    with pytest.raises(ConversionError, match=message):
        plan_of(original, pe=str(path))


def test_frequencies_of_another_width(original):
    with pytest.raises(ConversionError, match=r"--pe T3: .* has the shape \(2, 128\)"):
        plan_of(original, pe="T3")


# --- strictness -------------------------------------------------------------------------------------------------------


def lora_name(layer: int, rest: str) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.q_proj.{rest}.weight"


def test_everything_wrong_is_listed_at_once(broken):
    def spoil(tensors):
        del tensors[lora_name(1, "lora_B0")]
        tensors[lora_name(1, "lora_A")] = np.zeros((5, 64), np.float32)
        del tensors["base_model.model.model.vl_projector.visual_ln.bias"]

    broken.rewrite("finetune", spoil)
    avs = "base_model.model.model.seg_module.mask_decoder.level_embed.weight"
    broken.rewrite("avs", lambda tensors: tensors.pop(avs))
    with pytest.raises(ConversionError) as caught:
        plan_of(broken, "llama", "clip", "finetune", "avs")
    report = caught.value.report
    assert report.missing == [
        "llama.layers.1.self_attn.q_proj.lora_B0.weight",
        "vl_projector.visual_ln.bias",
        "avs/mask_decoder.mask_decoder.level_embed.weight",
    ]
    assert report.misshapen == ["llama.layers.1.self_attn.q_proj.lora_A.weight: (5, 64), expected (4, 64)"]
    for line in (*report.missing, *report.misshapen):
        assert line in str(caught.value)


def test_missing_layers_are_folded(broken):
    broken.rewrite("finetune", lambda t: [t.pop(k) for k in list(t) if ".mlp.up_proj.lora_B" in k])
    with pytest.raises(ConversionError, match=r"llama.layers.\{0-1\}.mlp.up_proj.lora_B\{0-2\}.weight"):
        plan_of(broken, "llama", "finetune")


def test_fold_claims_nothing_that_was_not_given():
    names = ["a.0.b.1.c", "a.0.b.2.c", "a.1.b.1.c"]
    assert fold(names) == names
    assert fold([*names, "a.1.b.2.c"]) == ["a.{0-1}.b.{1-2}.c"]
    assert fold(["x.0.w", "x.2.w"]) == ["x.{0,2}.w"]


def test_unknown_names_are_tolerated_in_crabs_files_and_kept(broken, tmp_path):
    extra = {
        "base_model.model.model.something.new": np.arange(3),
        "base_model.model.model.seg_module.other": np.ones((2, 2), np.float32),
        "optimizer": np.zeros((0, 4), np.float32),
    }
    broken.rewrite("finetune", lambda t: t.update(extra))
    report = convert(broken.inputs(), tmp_path / "w", numbers=files.numbers(broken.config))
    assert set(report.unexpected["finetune"]) == set(extra)
    check_export(broken, tmp_path / "w", tmp_path / "out", ("finetune",))


@pytest.mark.parametrize("role", ["llama", "clip", "beats"])
def test_unknown_names_are_fatal_in_public_releases(broken, role):
    extra = {"llama": "model.layers.0.self_attn.q_proj.bias", "clip": "vision_model.x", "beats": "encoder.x"}[role]
    tensors = broken.tensors[role] | {extra: np.ones(2, np.float32)}
    if role == "beats":
        torch.save(
            {"cfg": files.beats_cfg(broken.config.beats), "model": {k: files.to_torch(x) for k, x in tensors.items()}},
            broken.path(role),
        )
    else:
        for path in broken.path(role).glob("*model*"):
            if path.name != "tokenizer.model":
                path.unlink()
        write_safetensors(broken.path(role) / "model.safetensors", tensors)
    with pytest.raises(ConversionError, match=f"{role}: 1 tensors that this network does not have"):
        plan_of(broken, role)


def test_second_names_hold_the_same_numbers(broken, tmp_path):
    """Every layer of BEATs has the table of layer 0; the file may hold it once or several times."""
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"

    def save(tensors):
        model = {k: files.to_torch(x.copy()) for k, x in tensors.items()}  # no storage is shared any more
        torch.save({"cfg": files.beats_cfg(broken.config.beats), "model": model}, broken.path("beats"))

    tensors = broken.tensors["beats"]
    save(tensors)
    report = convert(broken.inputs("beats"), tmp_path / "w", numbers=files.numbers(broken.config))
    assert [f"beats: {name}"] in report.ignored.values()
    check_export(broken, tmp_path / "w", tmp_path / "out", ("beats",))

    save(tensors | {name: np.nextafter(tensors[name], np.float32(9))})
    with pytest.raises(ConversionError, match=rf"beats: {name} differs from {name.replace('1', '0')}"):
        plan_of(broken, "beats")
    save(tensors | {name: tensors[name][:-1]})
    with pytest.raises(ConversionError, match=f"beats: {name} differs"):
        plan_of(broken, "beats")


def test_extra_lora_heads(broken):
    broken.rewrite("finetune", lambda t: t.update({lora_name(0, "lora_B3"): t[lora_name(0, "lora_B0")]}))
    with pytest.raises(ConversionError, match=r"lora_route has 3 heads, but there are 4 matrices lora_B"):
        plan_of(broken, "llama", "finetune")


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_any_number_of_lora_heads(tmp_path, monkeypatch, heads):
    c = files.config()
    llama = dataclasses.replace(c.llama, lora=dataclasses.replace(c.llama.lora, heads=heads))
    monkeypatch.setattr(files, "config", lambda: dataclasses.replace(c, llama=llama))
    made = files.write(tmp_path / "files")
    plan = plan_of(made, "llama", "finetune")
    assert plan.report.sizes["lora_heads"] == heads
    assert plan.config.llama.lora.heads == heads
    assert plan.params["llama/layers/attn/q/lora_b"].shape[1] == heads


def test_one_tensor_under_two_names(broken):
    name = lora_name(0, "lora_A")
    broken.rewrite("finetune", lambda t: t.update({name.removeprefix("base_model.model."): t[name]}))
    with pytest.raises(ConversionError, match="are the same tensor"):
        plan_of(broken, "llama", "finetune")


def test_integers_where_numbers_belong(broken):
    name = "base_model.model.model.vl_projector.visual_ln.bias"
    broken.rewrite("finetune", lambda t: t.update({name: t[name].astype(np.int32)}))
    with pytest.raises(ConversionError, match=r"vl_projector.visual_ln.bias: holds int32"):
        plan_of(broken, "finetune")


def test_a_pointwise_convolution_of_another_size(broken):
    """`[:, :, 0, 0]` of a 3 x 3 kernel would fit and lose eight ninths of it."""
    name = "base_model.model.model.seg_module.image_feature_neck.0.weight"
    broken.rewrite("avs", lambda t: t.update({name: np.zeros((*t[name].shape[:2], 3, 3), np.float32)}))
    with pytest.raises(
        ConversionError, match=r"image_feature_neck.0.weight: \(32, 48, 3, 3\), expected \(32, 48, 1, 1\)"
    ):
        plan_of(broken, "avs")


def test_a_file_given_as_another(original):
    inputs = dataclasses.replace(original.inputs("clip"), visual_pretrain=original.path("audio_pretrain"))
    with pytest.raises(
        ConversionError, match=r"visual_pretrain: .* holds nothing of vl_projector .*is it another file"
    ):
        make_plan(inputs, files.numbers(original.config))


def test_parts_of_different_models(broken):
    name = "vl_projector.visual_proj.4"

    def narrow(t):
        for prefix in ("base_model.model.model.",):
            t[f"{prefix}{name}.weight"] = t[f"{prefix}{name}.weight"][:-1]
            t[f"{prefix}{name}.bias"] = t[f"{prefix}{name}.bias"][:-1]

    broken.rewrite("finetune", narrow)
    with pytest.raises(ConversionError, match="llama gives vectors of width 64, vl_projector reads 63"):
        plan_of(broken, "llama", "finetune")


def test_no_files():
    with pytest.raises(ConversionError, match="no files given"):
        make_plan(Inputs(), model_config.load())


def test_all_unreadable_files_are_listed(broken):
    broken.path("avs").write_bytes(b"")
    broken.path("beats").write_text("<!DOCTYPE html>")
    with pytest.raises(ConversionError) as caught:
        plan_of(broken)
    assert "avs: " in str(caught.value)
    assert "the file is empty" in str(caught.value)
    assert "a web page" in str(caught.value)


# --- vocabulary -------------------------------------------------------------------------------------------------------


def test_a_padded_tokenizer(broken):
    (broken.path("llama") / "tokenizer.model").write_bytes(files.tokenizer_model(files.BASE + 1))
    with pytest.raises(ConversionError, match=r"has 41 pieces, the weights expect exactly 40; .*<pad>"):
        plan_of(broken, "llama")


@pytest.mark.parametrize(("content", "message"), [(None, "is missing"), (b"nonsense", "no SentencePiece model")])
def test_no_tokenizer(broken, content, message):
    path = broken.path("llama") / "tokenizer.model"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        plan_of(broken, "llama")


def test_a_config_with_another_vocabulary(broken):
    path = broken.path("llama") / "config.json"
    path.write_text(path.read_text().replace(f'"vocab_size": {files.BASE}', '"vocab_size": 41'))
    with pytest.raises(ConversionError, match=r"vocab_size 41, the weights expect 40; .*<pad>"):
        plan_of(broken, "llama")


def test_matrices_with_another_vocabulary(tmp_path):
    made = files.write(tmp_path / "files", llama_format="single")
    name = "model.embed_tokens.weight"
    made.tensors["llama"][name] = np.zeros((files.BASE + 1, 64), np.float16)
    write_safetensors(made.path("llama") / "model.safetensors", made.tensors["llama"])
    with pytest.raises(ConversionError, match=r"has the shape \(41, 64\), expected \(40, 64\)"):
        plan_of(made, "llama")


def test_an_overlay_with_another_vocabulary(broken):
    name = "base_model.model.lm_head.weight"
    broken.rewrite("avs", lambda t: t.update({name: t[name][:-1]}))
    with pytest.raises(ConversionError, match=r"avs: .*\(56, 64\), expected 57 rows: 40 of the tokenizer and 17"):
        plan_of(broken, "avs")


# --- original configs and the model config ----------------------------------------------------------------------------


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


# --- the weights folder -----------------------------------------------------------------------------------------------


def test_load_parts_and_dtype(weights):
    loaded = checkpoint.load(weights, parts=["clip", "vl_projector"], dtype=ml_dtypes.bfloat16)
    assert loaded.config.missing() == ["llama", "beats", "al_projector", "mask_decoder"]
    assert {p.split("/")[0] for p in loaded.params} == {"clip", "vl_projector"}
    assert {x.dtype for x in loaded.params.values()} == {np.dtype(ml_dtypes.bfloat16)}
    full = checkpoint.load(weights)
    assert same(loaded.params["clip/class_token"], full.params["clip/class_token"].astype(ml_dtypes.bfloat16))
    assert full.tokenizer.read_bytes() == files.tokenizer_model(files.BASE)


@pytest.mark.parametrize("kind", ["one", "mapping", "function"])
def test_load_into_shardings(weights, kind):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    plain = checkpoint.load(weights, parts=["clip"])
    table = {path: sharding if x.ndim else whole for path, x in plain.params.items()}
    given = {"one": whole, "mapping": table, "function": lambda path, shape: table[path]}[kind]
    loaded = checkpoint.load(weights, parts=["clip"], shardings=given)
    for path, x in loaded.params.items():
        assert isinstance(x, jax.Array)
        assert x.sharding == (whole if kind == "one" else table[path])
        assert same(np.asarray(x), plain.params[path])


def test_what_cannot_be_loaded(weights, tmp_path):
    with pytest.raises(CheckpointError, match="no part 'ears'"):
        checkpoint.load(weights, parts=["ears"])
    with pytest.raises(CheckpointError, match=r"no weights 'ref' in it \(it has: avs, avss\)"):
        checkpoint.load(weights, variant="ref")
    with pytest.raises(CheckpointError, match="no overlay 'x'"):
        checkpoint.load(weights).with_overlay("x")
    with pytest.raises(CheckpointError, match=r"no crab.json in it.*crab convert"):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="no sharding given for clip/"):
        checkpoint.load(weights, parts=["clip"], shardings={})


def spoiled(weights, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(weights, tmp_path / "copy"))


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in (folder / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_incomplete_folders_are_refused(weights, tmp_path):
    copy = spoiled(weights, tmp_path)
    victim = largest_file(copy)
    content = victim.read_bytes()
    victim.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=rf"has {len(content) - 1} bytes, expected {len(content)}"):
        checkpoint.load(copy)
    victim.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.load(copy)


def test_damaged_folders_are_refused(weights, tmp_path):
    copy = spoiled(weights, tmp_path)
    victim = largest_file(copy)
    victim.write_bytes(bytes(victim.stat().st_size))
    section = victim.relative_to(copy / "params").parts[0].split("-")[0]
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(checkpoint.stream(copy, checkpoint.read_manifest(copy), section))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=99), "format 99, this version reads 1"),
        (lambda m: m.pop("arrays"), "broken"),
        (lambda m: m["config"]["clip"].update(wings=2), "unknown field"),
        (
            lambda m: m["arrays"]["base"]["clip/class_token"].update(shape=[3]),
            "differs from crab.json in clip/class_token",
        ),
        (lambda m: m["arrays"]["base"]["clip/class_token"].update(dtype="float16"), "differs from crab.json"),
        (lambda m: m["arrays"]["base"].pop("clip/class_token"), "differs from crab.json"),
    ],
)
def test_a_manifest_that_lies(weights, tmp_path, change, message):
    copy = spoiled(weights, tmp_path)
    manifest = json.loads((copy / "crab.json").read_text())
    change(manifest)
    (copy / "crab.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(copy)


def test_a_truncated_manifest(weights, tmp_path):
    copy = spoiled(weights, tmp_path)
    text = (copy / "crab.json").read_text()
    (copy / "crab.json").write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match="broken"):
        checkpoint.load(copy)


def test_existing_folders(tmp_path):
    params = {"clip/class_token": np.arange(4, dtype=np.float32)}
    out = tmp_path / "w"
    checkpoint.save(out, config=CrabConfig(), params=params)
    with pytest.raises(CheckpointError, match="is not empty; choose another folder, or --overwrite"):
        checkpoint.save(out, config=CrabConfig(), params=params)
    checkpoint.save(out, config=CrabConfig(), params={"clip/class_token": np.ones(2, np.float32)}, overwrite=True)
    assert same(checkpoint.load(out).params["clip/class_token"], np.ones(2, np.float32))
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("…")
    with pytest.raises(CheckpointError, match="no weights folder"):
        checkpoint.save(other, config=CrabConfig(), params=params, overwrite=True)
    assert (other / "thesis.txt").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"w", "precious"}, "temporary folders were left behind"


def test_a_failed_save_leaves_nothing(tmp_path):
    def fail():
        raise OSError(28, "No space left on device")

    good = {"clip/class_token": np.arange(4, dtype=np.float32)}
    checkpoint.save(tmp_path / "w", config=CrabConfig(), params=good)
    bad = good | {"clip/positions": Tensor((2, 2), np.dtype(np.float32), fail)}
    with pytest.raises(CheckpointError, match="the disk is full"):
        checkpoint.save(tmp_path / "w", config=CrabConfig(), params=bad, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    assert same(checkpoint.load(tmp_path / "w").params["clip/class_token"], good["clip/class_token"])


def test_not_enough_disk(original, weights, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(CheckpointError, match=r"needs about 0\.0 GB, but .* has 0\.0 GB free; make room"):
        convert(original.inputs(), tmp_path / "w", numbers=files.numbers(original.config))
    with pytest.raises(CheckpointError, match="scratch file"):
        export(weights, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_export_needs_files_and_room(tmp_path, weights):
    checkpoint.save(tmp_path / "w", config=CrabConfig(), params={"clip/class_token": np.ones(2, np.float32)})
    with pytest.raises(ExportError, match="was not converted from files"):
        export(tmp_path / "w", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(CheckpointError, match="is not empty"):
        export(weights, tmp_path / "full")


def test_export_of_changed_weights(original, weights, tmp_path):
    """Training changes values, not names: the export carries the new values under the old names."""
    loaded = checkpoint.load(weights)
    params = {p: x + 1 if p == "vl_projector/queries" else x for p, x in loaded.params.items()}
    checkpoint.save(tmp_path / "w", config=loaded.config, params=params, overlays=loaded.overlays,
                    overlay_configs={r: original.overlay_config(r) for r in loaded.overlays},
                    kept=kept_of(weights), files=loaded.manifest["files"], tokenizer=loaded.tokenizer)  # fmt: skip
    export(tmp_path / "w", tmp_path / "out")
    again = open_source(tmp_path / "out" / CRAB_FILES["finetune"])
    name = "base_model.model.model.vl_projector.visual_query_tokens"
    assert same(again.read(name), original.tensors["finetune"][name] + 1)
    assert again.names() == list(original.tensors["finetune"])


def kept_of(weights) -> dict[str, dict[str, np.ndarray]]:
    kept: dict[str, dict[str, np.ndarray]] = {}
    for (role, name), x in checkpoint.stream(weights, checkpoint.read_manifest(weights), "kept"):
        kept.setdefault(role, {})[name] = x
    return kept


def test_conversion_streams(tmp_path, monkeypatch):
    """What NumPy holds at once stays near one group, far below the model."""
    monkeypatch.setattr(groups, "GROUP_BYTES", 1 << 20)
    size, count = 1 << 18, 48  # 48 parameters of 1 MB
    read = []

    def tensor(i):
        def make():
            read.append(i)
            return np.full(size, i, np.float32)

        return Tensor((size,), np.dtype(np.float32), make)

    params = {f"clip/p{i}/kernel": tensor(i) for i in range(count)}
    checkpoint.save(tmp_path / "warm", config=CrabConfig(), params={"clip/x": np.ones(1, np.float32)})
    tracemalloc.start()
    try:
        checkpoint.save(tmp_path / "w", config=CrabConfig(), params=params)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == list(range(count)), "every tensor is read once, in order"
    assert peak < 8 << 20, f"held {peak >> 20} MB of {count} MB"
    assert all(len(set(x.tolist())) == 1 for x in list(checkpoint.load(tmp_path / "w").params.values())[:2])


def test_small_groups_change_nothing(original, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "GROUP_BYTES", 1 << 14)
    convert(original.inputs("clip"), tmp_path / "w", numbers=files.numbers(original.config))
    assert len(list((tmp_path / "w" / "params").iterdir())) > 3
    whole = checkpoint.load(weights, parts=["clip"]).params
    assert all(same(x, whole[p]) for p, x in checkpoint.load(tmp_path / "w").params.items())


# --- the published sizes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_shapes(tmp_path_factory):
    """The published files as sparse files: names and shapes of the real ones, no values and no disk."""
    folder = tmp_path_factory.mktemp("published_shapes")
    config = build(CrabConfig, published.get_config().model.to_dict())
    names: dict[str, dict[str, tuple[int, ...]]] = {}
    for part in ("llama", "clip", "beats", "vl_projector", "al_projector", "mask_decoder"):
        rules, shapes = table(part, getattr(config, part)), infer.shapes(part, getattr(config, part))
        names[part] = dict(rules.unused)
        for rule in rules.rules:
            shape = shapes[rule.path][len(rule.counts) :]
            shape = rule.op.save(np.broadcast_to(np.int8(0), shape)).shape
            names[part] |= {key: shape for _, key in rule.keys()}
    joint = "base_model.model.model."
    rows = {k: names["llama"][k] for k in ("embed_tokens.weight", "lm_head.weight")}
    lora = {f"{joint}{k}": s for k, s in names["llama"].items() if "lora" in k}
    base = {f"model.{k}": s for k, s in names["llama"].items() if "lora" not in k and k not in rows}
    base |= {"model.embed_tokens.weight": (32000, 4096), "lm_head.weight": (32000, 4096)}
    seg = {f"seg_module.{k}": s for k, s in names["mask_decoder"].items()}
    projectors = {p: {f"{p}.{k}": s for k, s in names[p].items()} for p in ("vl_projector", "al_projector")}
    contents = {
        "visual_pretrain": {f"model.{k}": s for k, s in projectors["vl_projector"].items()},
        "audio_pretrain": {f"model.{k}": s for k, s in projectors["al_projector"].items()},
        "finetune": lora | {f"{joint}{k}": s for p in projectors.values() for k, s in p.items()},
        "avs": {f"{joint}{k}": s for k, s in seg.items()}
        | {f"{joint}embed_tokens.weight": (32017, 4096), "base_model.model.lm_head.weight": (32017, 4096)},
    }
    contents["avss"] = contents["avs"]
    (folder / "crab").mkdir()
    for role, shapes in contents.items():
        sparse(folder / "crab" / CRAB_FILES[role], shapes, np.float32)
    for part, shapes, dtype in (("llama", base, np.float16), ("clip", names["clip"], np.float32)):
        (folder / part).mkdir()
        sparse(folder / part / "model.safetensors", shapes, dtype)
    c = config.llama
    (folder / "llama" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "vocab_size": 32000, "hidden_size": c.hidden_size,
                "intermediate_size": c.intermediate_size, "num_hidden_layers": 32, "num_attention_heads": 32,
                "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            }
        )
    )  # fmt: skip
    (folder / "llama" / "tokenizer.model").write_bytes(files.tokenizer_model(32000))
    vision = {"image_size": 224, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096,
              "num_hidden_layers": 24, "num_attention_heads": 16}  # fmt: skip
    (folder / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    return folder


def sparse(path: pathlib.Path, shapes, dtype) -> None:
    """A safetensors file with a header and a hole."""
    empty = {name: Tensor(tuple(shape), np.dtype(dtype), lambda: np.empty(0, dtype)) for name, shape in shapes.items()}
    write_safetensors(path, empty)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + sum(t.nbytes for t in empty.values()))


def test_the_published_model_by_shapes(published_shapes):
    """Specification 1.2 and 2.3: every file has its number of tensors, and the config is the published one."""
    counts = {"visual_pretrain": 80, "audio_pretrain": 80, "finetune": 160 + 1120, "avs": 237, "avss": 237}
    crab = find_crab_files(published_shapes / "crab")
    for role, count in counts.items():
        assert len(open_source(crab[role]).names()) == count
    inputs = Inputs(llama=published_shapes / "llama", clip=published_shapes / "clip", **crab)
    plan = make_plan(inputs, model_config.load())
    expected = build(CrabConfig, published.get_config().model.to_dict())
    assert plan.config == dataclasses.replace(expected, beats=None, mask_decoder=None)
    assert plan.overlay_configs == {"avs": expected.mask_decoder, "avss": expected.mask_decoder}
    report = plan.report
    assert report.sizes["lora_heads"] == 3
    assert report.sizes["queries"] == dict.fromkeys(("avs/mask_decoder", "avss/mask_decoder"), 300) | dict.fromkeys(
        ("vl_projector", "al_projector"), 32
    )
    assert report.sizes["vocabulary"] == {"base": 32000, "added": 17, "rows": 32017}
    assert len(report.superseded) == 160
    assert report.sources["embed_tokens rows 32000 to 32016"].startswith("T3")
    assert all(about.startswith("T3") for name, about in report.sources.items() if "/pe/" in name)
    assert sum(p.nbytes for path, p in plan.params.items() if "lora" in path) == 4 * 45_162_496
    assert not report.unexpected


# --- the command ------------------------------------------------------------------------------------------------------


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_command(original, tmp_path, capsys):
    config = tmp_path / "model.json"
    config.write_text(json.dumps(to_dict(files.numbers(original.config))))
    (tmp_path / "crab").mkdir()
    for role in ("finetune", "avs"):
        shutil.copy(original.path(role), tmp_path / "crab")
    (tmp_path / "crab" / "adapter_model.bin").write_bytes(b"?")
    out = tmp_path / "w"
    arguments = ("--llama", str(original.path("llama")), "--clip", str(original.path("clip")),
                 "--beats", str(original.path("beats")), "--crab", str(tmp_path / "crab"),
                 "--visual-pretrain", str(original.path("visual_pretrain")), "--out", str(out),
                 "--model-config", str(config))  # fmt: skip
    assert command.run(parse(*arguments)) == 0
    shown = capsys.readouterr()
    assert "lora_heads: 3" in shown.out
    assert "adapter_model.bin: not one of the published names" in shown.out
    assert "replaced: " in shown.out
    assert "convert" in shown.err, "progress goes to stderr"
    report = json.loads((out / "report.json").read_text())
    assert report["sizes"]["vocabulary"]["rows"] == files.BASE + 17
    manifest = json.loads((out / "crab.json").read_text())
    assert {f["role"] for f in manifest["files"]} == {"llama", "clip", "beats", "visual_pretrain", "finetune", "avs"}
    (joint,) = (f for f in manifest["files"] if f["role"] == "finetune")
    import hashlib

    assert joint["weights"][0]["sha256"] == hashlib.sha256(original.path("finetune").read_bytes()).hexdigest()

    assert command.run(parse(*arguments)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert command.run(parse(*arguments, "--overwrite", "--dtype", "bfloat16")) == 0

    exporter = argparse.ArgumentParser()
    command.add_export_arguments(exporter)
    capsys.readouterr()
    assert command.run_export(exporter.parse_args(["--weights", str(out), "--out", str(tmp_path / "e")])) == 1
    assert "--lossy" in capsys.readouterr().err
    assert (
        command.run_export(exporter.parse_args(["--weights", str(out), "--out", str(tmp_path / "e"), "--lossy"])) == 0
    )
    assert "finetune_weights.bin: " in capsys.readouterr().out


def test_command_errors(original, tmp_path, capsys):
    for arguments, message, code in (
        (("--crab", str(tmp_path / "none")), "no such folder", 2),
        (("--crab", str(original.folder / "llama")), "expected some of visual_pretrain.bin", 2),
        (("--beats", str(tmp_path / "x.pt")), "no such file", 2),
        (("--clip", str(original.path("clip"))), "taps", 1),
        (("--clip", str(original.path("clip")), "--model-config", str(tmp_path / "x.json")), "cannot be read", 2),
        ((), "no files given", 2),
    ):
        assert command.run(parse(*arguments, "--out", str(tmp_path / "w"))) == code
        shown = capsys.readouterr()
        assert message in shown.err, (arguments, shown.err)
        assert shown.err.startswith("error: "), "no bar that moves nothing"
    assert not (tmp_path / "w").exists()


def test_common_dtype():
    half, brain, single = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
    assert common_dtype(half, half) == half
    assert common_dtype(half, brain) == single
    assert common_dtype(brain, single) == single


def test_find_crab_files_names_the_error(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        find_crab_files(tmp_path / "x")
    (tmp_path / "finetune_weights.bin").write_bytes(b"")
    (tmp_path / "other.pt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    found = find_crab_files(tmp_path)
    assert found == {"finetune": tmp_path / "finetune_weights.bin", "strays": (tmp_path / "other.pt",)}


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
