"""crab.json and other small files of numbers that may hold anything."""

import copy
import json

import numpy as np
import pytest

from crab_jax import cli
from crab_jax.config import ConfigError
from crab_jax.convert import model_config
from crab_jax.convert.sources import SourceError
from crab_jax.convert.unsaved import frequencies
from crab_jax.manifest import CheckpointError, read_manifest

ARRAY = {"in": "base-clip-000", "shape": [4], "dtype": "float32"}
GOOD = {
    "format": 1,
    "config": {},
    "overlays": {"avs": {}},
    "arrays": {"base": {"clip/class_token": ARRAY, "clip/other": ARRAY | {"dtype": "bfloat16"}}, "avs": {}},
    "kept": {"clip": {"x": {"in": None, "number": "t0", "shape": [0], "dtype": "int64"}}},
    "contents": {"report.json": 10},
    "files": [
        {
            "role": "clip",
            "path": "clip",
            "format": "torch",
            "weights": [{"name": "pytorch_model.bin", "size": 1}],
            "tensors": [{"name": "a", "shape": [4], "dtype": "float32", "in": "base"}],
            "extra": {},
        }
    ],
}
SPOILT = [
    (("contents", "report.json"), "ten", "contents.report.json: expected a count"),
    (("contents",), [], "contents: expected an object"),
    (("config",), None, "config: expected an object"),
    (("overlays", "avs"), 3, "overlays.avs: expected an object"),
    (("overlays", "avss"), {}, "no section 'avss'"),
    (("arrays",), {}, "no section 'avs'"),
    (("arrays", "base"), ["x"], "arrays.base: expected an object"),
    (("arrays", "base", "clip/class_token"), 1, "expected an object"),
    (("arrays", "base", "clip/class_token", "shape"), 4, "expected a list of sizes"),
    (("arrays", "base", "clip/class_token", "shape"), [-4], "expected a count"),
    (("arrays", "base", "clip/class_token", "dtype"), "f4,f4", "no dtype"),
    (("arrays", "base", "clip/class_token", "dtype"), "object", "no dtype"),
    (("arrays", "base", "clip/class_token", "in"), "../elsewhere", "no name of a group"),
    (("kept", "clip", "x", "shape"), [1 << 40], "lies in no group, but is not empty"),
    (("kept", "clip", "x", "number"), 0, "expected a string"),
    (("files",), None, "files: expected a list"),
    (("files", 0), 3, "files.0: expected an object"),
    (("files", 0, "tensors"), {}, "expected a list of tensors"),
    (("files", 0, "weights", 0, "name"), None, "expected a string"),
]


def write(folder, manifest):
    (folder / "crab.json").write_text(json.dumps(manifest))
    return folder


def test_a_good_one(tmp_path):
    assert read_manifest(write(tmp_path, GOOD)) == GOOD


@pytest.mark.parametrize(("place", "value", "message"), SPOILT)
def test_a_spoilt_field_is_named(tmp_path, capsys, place, value, message):
    manifest = copy.deepcopy(GOOD)
    at = manifest
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(CheckpointError, match=rf"crab.json: broken \(.*{message}.*convert the weights again"):
        read_manifest(write(tmp_path, manifest))
    code = cli.main(["export", "--weights", str(tmp_path), "--out", str(tmp_path / "out")])
    assert code == 2  # nothing was started
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_too_long_for_a_model_config(tmp_path, digits):
    values = json.loads(model_config.PUBLISHED.read_text())
    text = json.dumps(values).replace('"alpha": 16', '"alpha": 1' + "0" * digits)
    assert text != json.dumps(values)
    (tmp_path / "n.json").write_text(text)
    with pytest.raises(ConfigError, match=r"lora\.alpha: expected float|n\.json: cannot be read"):
        model_config.load(tmp_path / "n.json")


def test_one_array_is_no_archive_of_arrays(tmp_path):
    with (tmp_path / "pe.npz").open("wb") as file:
        np.save(file, np.ones((2, 16), np.float32))
    with pytest.raises(SourceError, match=r"pe.npz: cannot be read as a .npz file"):
        frequencies(tmp_path / "pe.npz", 32)
