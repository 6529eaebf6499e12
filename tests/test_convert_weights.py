"""The weights folder: loading, damage, saving and export, and how much memory that takes."""

from __future__ import annotations

import json
import pathlib
import shutil
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")

import converted_files
import published_files as files
from converted_files import same

from crab_jax import checkpoint, groups
from crab_jax.checkpoint import CheckpointError
from crab_jax.convert.crab import CRAB_FILES
from crab_jax.convert.export import ExportError, export
from crab_jax.convert.run import convert
from crab_jax.convert.sources import Tensor, open_source
from crab_jax.model import CrabConfig

original, weights = converted_files.original, converted_files.weights  # fixtures

# After a damaged chunk Orbax abandons its other reads; they then complain to nobody about a closed event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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
