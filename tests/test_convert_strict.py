"""Published files that do not fit: names, shapes, numbers and vocabulary, each with its error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import converted_files  # noqa: E402
import published_files as files  # noqa: E402
from converted_files import check_export, plan_of  # noqa: E402

from crab_jax.convert import model_config  # noqa: E402
from crab_jax.convert.crab import Inputs  # noqa: E402
from crab_jax.convert.plan import make_plan  # noqa: E402
from crab_jax.convert.report import ConversionError, fold  # noqa: E402
from crab_jax.convert.run import convert  # noqa: E402
from crab_jax.convert.sources import write_safetensors  # noqa: E402

original, broken = converted_files.original, converted_files.broken  # fixtures


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
