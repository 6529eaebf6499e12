"""Weights folders whose arrays are one safetensors file, and the model that comes with the project."""

import json

import jax
import numpy as np
import pytest
from models import tiny_config, tiny_params
from safetensors.numpy import load_file

from crab_jax import assets, checkpoint
from crab_jax.checkpoint import CheckpointError
from crab_jax.convert.runs import save_whole
from crab_jax.model import abstract
from crab_jax.tokens import Tokenizer
from launch.ablation import VARIANTS

LARGEST = 20_000_000  # bytes of a model that a repository can hold


@pytest.fixture
def folder(tmp_path):
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(Tokenizer.tiny().model)
    params = {path: x.astype(np.float16) for path, x in tiny_params().items()}
    over = {"avs": {path: -x for path, x in params.items() if path.startswith("mask_decoder/")}}
    checkpoint.save(
        tmp_path / "one", config=tiny_config(), params=params, overlays=over, tokenizer=tokenizer, single_file=True
    )
    return tmp_path / "one"


def test_one_file_per_set_of_weights(folder):
    assert sorted(p.name for p in (folder / "params").iterdir()) == ["avs.safetensors", "base.safetensors"]
    loaded = checkpoint.load(folder)
    assert loaded.config == tiny_config()
    assert set(loaded.params) == set(tiny_params())
    for path, x in tiny_params().items():
        np.testing.assert_array_equal(loaded.params[path], x.astype(np.float16))
    wide = checkpoint.load(folder, variant="avs", dtype="float32").params["mask_decoder/no_mask"]
    np.testing.assert_array_equal(wide, -tiny_params()["mask_decoder/no_mask"].astype(np.float16).astype(np.float32))


def test_one_file_is_read_into_place(folder):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    x = checkpoint.load(folder, shardings=place, parts=["clip"], dtype="bfloat16").params["clip/patch_embed/kernel"]
    assert isinstance(x, jax.Array)
    assert (x.sharding, x.dtype.name) == (place, "bfloat16")


def test_orbax_and_one_file_hold_the_same(folder, tmp_path):
    save_whole(folder, tmp_path / "many")
    assert not list((tmp_path / "many").rglob("*.safetensors"))
    save_whole(tmp_path / "many", tmp_path / "again", single_file=True)
    one, again = (load_file(f / "params" / "base.safetensors") for f in (folder, tmp_path / "again"))
    assert one.keys() == again.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], again[path])


def test_a_file_that_is_not_what_crab_json_says(folder):
    about = json.loads((folder / "crab.json").read_text())
    about["arrays"]["base"]["mask_decoder/no_mask"]["shape"] = [31]
    (folder / "crab.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"differs from crab\.json in mask_decoder/no_mask"):
        checkpoint.load(folder)


def test_a_damaged_file(folder):
    file = folder / "params" / "base.safetensors"
    data = bytearray(file.read_bytes())
    data[8:16] = b"\xff" * 8  # the header is no JSON any more
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder)


def test_a_folder_of_ones_own_goes_before_a_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert assets.weights_folder("mini").is_absolute()
    assert assets.weights_folder("maxi").name == "maxi"
    (tmp_path / "mini").mkdir()
    assert not assets.weights_folder("mini").is_absolute()


def test_the_model_that_ships_is_whole_and_small():
    folder = assets.weights_folder("mini")
    if not folder.is_dir():
        pytest.skip("no trained model comes with the project yet, see docs/mini.md")
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= LARGEST
    loaded = checkpoint.load(folder)
    shapes = abstract(loaded.config)
    assert {p: x.shape for p, x in loaded.params.items()} == {p: x.shape for p, x in shapes.items()}
    assert all(np.isfinite(x).all() for x in loaded.params.values())
    c = loaded.config
    assert (c.llama.lora.heads, c.mask_decoder.mask_tokens, len(c.clip.taps)) == (3, 6, 3)
    assert 5e6 <= sum(x.size for x in loaded.params.values()) <= 10e6
    assert Tokenizer.load(loaded.tokenizer, base_vocabulary=None).size == c.llama.vocab_size


def test_what_the_page_shows_comes_along():
    """Guesses and the ablation, in the form that `crab eval` takes."""
    folder = assets.weights_folder("mini")
    guesses, ablation = (json.loads((folder / f"{name}.json").read_text()) for name in ("baselines", "ablation"))
    assert guesses
    assert set(ablation) == {v.name for v in VARIANTS}
    seeds = {len(scores) for numbers in ablation.values() for scores in numbers.values()}
    assert min(seeds) >= 3, "spreads need several seeds"
    assert len({tuple(sorted(numbers)) for numbers in ablation.values()}) == 1, "the same numbers of all variants"
