"""Weight files that are broken or something else, and folders of them: each is an error that names the file."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from weight_archives import DATA, program, read_all, zip_with  # noqa: E402

from crab_jax.convert.sources import SourceError, open_source, write_safetensors  # noqa: E402

# --- broken archives --------------------------------------------------------------------------------------------------


def test_compressed_records_are_refused(tmp_path):
    zip_with(tmp_path / "x.bin", program(), {"0": bytes(1 << 24)}, compress=True)
    with pytest.raises(SourceError, match=r"a/data.pkl is compressed or encrypted"):
        open_source(tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "y.bin", "w") as archive:
        archive.writestr("a/data.pkl", program(count=1 << 22), zipfile.ZIP_STORED)
        archive.writestr("a/data/0", bytes(1 << 24), zipfile.ZIP_DEFLATED)
    with pytest.raises(SourceError, match=r"a/data/0 is compressed or encrypted \(\d+ bytes claim to hold 16777216\)"):
        open_source(tmp_path / "y.bin")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "truncated or broken|without a data.pkl|neither"),
        ({"readme.txt": b"hi"}, r"without a data.pkl.*readme.txt"),
        ({"a/data.pkl": b".", "b/data.pkl": b"."}, "without a data.pkl"),
        ({"a/b/data.pkl": b"."}, "without a data.pkl"),
        ({"a/data.pkl": b".", "a/constants.pkl": b"."}, "TorchScript"),
    ],
)
def test_archives_of_another_kind(tmp_path, entries, message):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.bin")


def test_a_record_that_lies_elsewhere(tmp_path):
    zip_with(tmp_path / "x.bin", program(), DATA)
    content = bytearray((tmp_path / "x.bin").read_bytes())
    central = content.rindex(b"PK\x01\x02")  # the entry of data/0
    struct.pack_into("<I", content, central + 42, 7)
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(SourceError, match="does not lie where the archive says"):
        open_source(tmp_path / "x.bin")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_anywhere(tmp_path, zipped):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.randn(40), "b": torch.randn(3, 3)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for size in sorted({*range(0, len(content), max(1, len(content) // 60)), len(content) - 1}):
        path.write_bytes(content[:size])
        with pytest.raises(SourceError):
            read_all(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_random_damage(tmp_path, kind):
    """Whatever is flipped: the file is read, or refused with a clear error; there is no third way."""
    path = tmp_path / "x.bin"
    tensors = {"a": torch.randn(4, 5), "b": torch.arange(6), "c": torch.randn(3).bfloat16()}
    if kind == "safetensors":
        arrays = {"a": np.ones((4, 5), np.float32), "c": np.ones(3, ml_dtypes.bfloat16)}
        write_safetensors(path, arrays)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        message = None
        try:
            read_all(path)
        except SourceError as error:
            message = str(error)
        if message is not None:
            refused += 1
            assert str(path) in message
            assert len(message) < 2000
    assert 0 < refused < 400


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.randn(4000)}, path)
    source = open_source(path)
    os.truncate(path, 2000)
    with pytest.raises(SourceError, match="ends inside a"):
        source.read("a")
    path.unlink()
    with pytest.raises(SourceError, match="cannot read a"):
        source.read("a")


# --- files that are something else ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, these are no weights", "neither a PyTorch nor a safetensors file"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"  \n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", r"Git LFS pointer.*git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (pickle.dumps({"x": 1}), "a bare pickle"),
        (b"PK\x03\x04 but no archive", "begins like a zip archive, but is truncated"),
        (bytes(4096), "neither"),
        (b"\x93NUMPY\x01\x00", "neither"),
    ],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(tmp_path / "x.bin")
    assert str(tmp_path / "x.bin") in str(caught.value)


def test_old_formats(tmp_path):
    body = b"".join(pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1, {}, {}, []))
    (tmp_path / "x.pt").write_bytes(body)
    with pytest.raises(SourceError, match="unknown PyTorch format"):
        open_source(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "needs 8 bytes, the header gives 4"),
        ({"x": {"dtype": "F32", "shape": [200], "data_offsets": [0, 800]}}, "it is truncated"),
        ({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "F99"),
        ({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "not counts"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, "header gives -4"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, "not counts"),
        ({"x": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, "not counts"),
        ({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, "shape"),
        ({"x": 3}, "broken entry"),
        ({"x" * 2000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "a tensor name of 2000 characters"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [float("inf"), 4]}}, "broken entry"),
        (None, "header is broken"),
    ],
)
def test_safetensors_that_lie(tmp_path, header, message):
    text = b"{" + b"x" * 20 if header is None else json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.safetensors")


def test_deeply_nested_header(tmp_path):
    text = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(SourceError, match=r"header is broken|broken entry"):
        open_source(tmp_path / "x.safetensors")


# --- folders ----------------------------------------------------------------------------------------------------------


INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))


def index(places) -> str:
    return json.dumps({"weight_map": places})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"no weights here; expected .* found an empty folder"),
        ({"readme.md": "hi"}, r"no weights here; .* found readme.md"),
        ({INDEX: index({"a": "s1", "b": "s2"}), "s1": "a"}, "1 of 2 shards are missing: s2"),
        ({INDEX: index({"a": "s1", "b": "s1"}), "s1": "a"}, "the index lists tensors that no shard holds: b"),
        ({INDEX: index({"a": "../../etc/passwd"})}, "lies outside of the folder; refused"),
        ({INDEX: index({"a": "/etc/passwd"})}, "lies outside of the folder; refused"),
        ({INDEX: index({"a": ".."})}, "lies outside of the folder; refused"),
        ({INDEX: index(["a"])}, "not a readable index"),
        ({INDEX: "{"}, "not a readable index"),
        ({INDEX: "[" * 100_000}, "not a readable index"),
        ({INDEX: index({})}, "lists no shards"),
        ({INDEX: index({"a": "s\ud800"})}, "refused"),
        ({"consolidated.00.pth": ""}, "Meta's own layout"),
        ({FIRST: "a"}, "found 1 shards of 2 and no index"),
        ({FIRST: "a", SECOND: "a"}, "a is already held by"),
        ({INDEX: index({"a": "s1"}), "s1": ""}, "s1: the file is empty"),
    ],
)
def test_folders(tmp_path, content, message):
    """Files are given by name; "a" stands for a safetensors file that holds the tensor a."""
    for name, text in content.items():
        if text == "a":
            write_safetensors(tmp_path / name, {"a": np.ones(2, np.float32)})
        else:
            (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "nowhere")


def test_shards_without_an_index(tmp_path):
    for i, name in enumerate("ab", 1):
        write_safetensors(tmp_path / f"model-0000{i}-of-00002.safetensors", {name: np.ones(i, np.float32)})
    assert {n: x.shape for n, x in read_all(tmp_path).items()} == {"a": (1,), "b": (2,)}
