"""Tensors that no published file holds: rows of added tokens, and frequencies."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import converted_files
import published_files as files
from converted_files import check_export, plan_of, same

from crab_jax.convert import unsaved
from crab_jax.convert.report import ConversionError
from crab_jax.convert.run import convert
from crab_jax.convert.sources import write_safetensors

original, broken = converted_files.original, converted_files.broken  # fixtures


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
