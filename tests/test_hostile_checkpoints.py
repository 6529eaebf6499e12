"""Broken, mislabelled or hostile weight files: each is an error that names the file, and nothing is ever executed."""

from __future__ import annotations

import collections
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crab_jax.convert.sources import SourceError, open_source, write_safetensors, write_torch  # noqa: E402
from crab_jax.convert.tensors import Tensor  # noqa: E402
from crab_jax.convert.unpickle import Interpreter  # noqa: E402


def read_all(path) -> dict[str, np.ndarray]:
    source = open_source(path)
    return {name: source.read(name) for name in source.names()}


def check_against_torch(path, loaded) -> None:
    ours = read_all(path)
    assert list(ours) == list(loaded)
    for name, x in loaded.items():
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        want = x.detach().contiguous().view(bits).numpy() if x.dim() else x.detach().reshape(1).view(bits).numpy()
        assert ours[name].shape == tuple(x.shape), name
        assert ours[name].tobytes() == want.tobytes(), name
        assert str(x.dtype).removeprefix("torch.") == ours[name].dtype.name, name
        assert ours[name].flags.c_contiguous
        assert ours[name].flags.writeable


def zip_with(
    path: pathlib.Path, program: bytes, storages: dict[str, bytes], *, root: str = "a", compress=False
) -> None:
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(f"{root}/data.pkl", program)
        archive.writestr(f"{root}/version", "3\n", zipfile.ZIP_STORED)
        for key, content in storages.items():
            archive.writestr(f"{root}/data/{key}", content)


def program(shape=(2, 3), stride=(3, 1), offset=0, count=6, key=b"0", kind=b"FloatStorage") -> bytes:
    """The pickle of `{"x": tensor}`, written out so that every claim can be changed."""

    def plain(value) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = b"((" + plain("storage") + b"ctorch\n" + kind + b"\n" + plain(key.decode()) + plain("cpu") + plain(count)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + b"tQ" + plain(offset) + plain(shape) + plain(stride)
    return b"\x80\x02}" + plain("x") + tensor + b"\x89ccollections\nOrderedDict\n)RtRs."


DATA = {"0": np.arange(6, dtype=np.float32).tobytes()}


# --- files that are fine ----------------------------------------------------------------------------------------------


@pytest.fixture
def odd_tensors():
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    shared = torch.randn(4, 4)
    return collections.OrderedDict(
        plain=base,
        transposed=base.transpose(0, 2),
        strided=base[:, ::2, 1:4:2],
        offset=base.flatten()[7:19],
        shared_a=shared,
        shared_b=shared,
        view_of_shared=shared[1],
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        one=base[1:2, :, :1],
        half=torch.randn(3).half(),
        brain=torch.randn(3).bfloat16(),
        double=torch.randn(3).double(),
        int64=torch.arange(3),
        int32=torch.arange(3, dtype=torch.int32),
        int16=torch.arange(3, dtype=torch.int16),
        int8=torch.arange(3, dtype=torch.int8),
        uint8=torch.arange(3, dtype=torch.uint8),
        flag=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_every_kind_of_tensor(tmp_path, odd_tensors, zipped):
    torch.save(odd_tensors, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    check_against_torch(tmp_path / "x.bin", odd_tensors)


def test_a_whole_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "x.pt")  # carries _metadata and integer buffers
    check_against_torch(tmp_path / "x.pt", module.state_dict())


def test_nested_files(tmp_path):
    torch.save({"cfg": {"a": [1, 2.5, None, "x", {"b": True}]}, "model": {"w": torch.ones(2)}}, tmp_path / "x.pt")
    source = open_source(tmp_path / "x.pt")
    assert source.extra["cfg"] == {"a": [1, 2.5, None, "x", {"b": True}]}
    assert source.names() == ["w"]


def test_named_wrongly(tmp_path):
    """The content decides, not the name."""
    write_safetensors(tmp_path / "finetune_weights.bin", {"x": np.ones(3, np.float32)})
    assert open_source(tmp_path / "finetune_weights.bin").format == "safetensors"
    torch.save({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    assert open_source(tmp_path / "x.safetensors").format == "torch"


def test_written_files_are_read_by_torch(tmp_path, odd_tensors):
    arrays = read_from(odd_tensors, tmp_path)
    write_torch(
        tmp_path / "y.bin", {"cfg": {"n": 1, "f": 0.5, "l": [1, "two"], "t": (1, 2), "b": None}, "model": arrays}
    )
    for kwargs in ({}, {"mmap": True}):
        again = torch.load(tmp_path / "y.bin", weights_only=True, **kwargs)
        assert again["cfg"] == {"n": 1, "f": 0.5, "l": [1, "two"], "t": (1, 2), "b": None}
        assert list(again["model"]) == list(odd_tensors)
        for name, x in odd_tensors.items():
            assert again["model"][name].dtype == x.dtype
            assert torch.equal(again["model"][name], x.detach()), name
    with zipfile.ZipFile(tmp_path / "y.bin") as archive:
        assert archive.testzip() is None, "check sums"


def read_from(tensors, tmp_path) -> dict[str, np.ndarray]:
    torch.save(tensors, tmp_path / "original.bin")
    return read_all(tmp_path / "original.bin")


def test_written_safetensors_are_read_by_the_library(tmp_path, odd_tensors):
    from safetensors.torch import load_file

    arrays = read_from(odd_tensors, tmp_path)
    write_safetensors(tmp_path / "y.safetensors", arrays, metadata={"format": "pt"})
    again = load_file(tmp_path / "y.safetensors")
    for name, x in odd_tensors.items():
        assert torch.equal(again[name], x.detach()), name
        assert again[name].dtype == x.dtype
    ours = read_all(tmp_path / "y.safetensors")
    assert all(ours[name].tobytes() == arrays[name].tobytes() for name in arrays)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(SourceError, match="complex64"):
        write_torch(tmp_path / "x.bin", {"x": np.zeros(2, np.complex64)})
    with pytest.raises(SourceError, match=r"cfg.a: a object|cfg.a: a set"):
        write_torch(tmp_path / "x.bin", {"cfg": {"a": {1}}})


def test_writing_reads_one_tensor_at_a_time(tmp_path):
    alive, most = [0], [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive[0] -= 1

    def make():
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return np.zeros(1000, np.float32).view(Counted)

    tensors = {f"t{i}": Tensor((1000,), np.dtype(np.float32), make) for i in range(20)}
    write_torch(tmp_path / "x.bin", tensors)
    write_safetensors(tmp_path / "x.safetensors", tensors)
    assert most[0] <= 2


# --- hostile pickles --------------------------------------------------------------------------------------------------


class Attack:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (lambda marker: Attack(os.system, f"touch {marker}"), r"(posix|nt).system"),
        (lambda marker: Attack(eval, f"open({str(marker)!r}, 'w')"), "__builtin__.eval"),
        (lambda marker: Attack(exec, f"open({str(marker)!r}, 'w')"), "__builtin__.exec"),
        (lambda marker: Attack(pathlib.Path.touch, pathlib.Path(marker)), "getattr|pathlib"),
        (lambda marker: Attack(torch.load, str(marker)), "torch.serialization.load"),
        (lambda marker: Attack(io.open, str(marker), "w"), "io.open|_io.open"),
    ],
)
def test_nothing_is_executed(tmp_path, attack, name, zipped):
    marker = tmp_path / "executed"
    for i, value in enumerate((attack(marker), {"x": torch.ones(2), "y": [attack(marker)]})):
        path = tmp_path / f"evil{i}.bin"
        torch.save({"model": value, "x": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(SourceError, match=rf"{path}: refused: the file asks for '.*({name})'") as caught:
            open_source(path)
        assert "nothing in them is ever executed" in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"cos\nsystem\n.", "'os.system'"),
        (b"\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"(S'true'\nios\nsystem\n.", "instruction INST"),
        (b"(cos\nsystem\nS'true'\no.", "'os.system'"),
        (b"ctorch\nSize\n)\x81.", "instruction NEWOBJ"),
        (b"ctorch\nFloatStorage\n)R.", "the file calls 'torch.FloatStorage'"),
        (b"ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"P0\n.", "instruction PERSID"),
        (b"}K\x01}}ssb.", "belongs|dict"),
        (b"]}b.", "a dict where a list|a list where a dict|dict belongs"),
        (b"ccollections\nOrderedDict\n(]tR.", "OrderedDict with arguments"),
        (b"}(K\x01t}s.", "dict key of the kind tuple"),
        (b"K\x01Q.", "tuple belongs"),
        (b"(K\x01K\x02tQ.", "broken"),
        (b"N)R.", "Name belongs"),
        (b"h\x05.", "broken"),
        (b"0.", "broken"),
        (b"", "no end|broken"),
        (b"}", "no end|broken"),
        (b"\xff", "broken"),
        (b"j\xff\xff\xff\xff.", "broken"),
        (b"X\xff\xff\xff\x7fabc.", "broken"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "broken"),
        (b"c" + b"A" * 5000, "broken"),
        (b"K\x01.", "holds a int, expected a dict"),
        (b"}.", "holds no tensors"),
        (b"}X\x01\x00\x00\x00aK\x01s.", r"holds no tensors \(only a\)"),
    ],
)
def test_hostile_instructions(tmp_path, body, message):
    zip_with(tmp_path / "x.bin", b"\x80\x02" + body, {})
    with pytest.raises(SourceError, match=message) as caught:
        open_source(tmp_path / "x.bin")
    assert str(tmp_path / "x.bin") in str(caught.value)


def test_a_huge_memo_index_costs_nothing(tmp_path):
    """CPython's own unpickler would allocate an array of that many slots."""
    zip_with(tmp_path / "x.bin", b"\x80\x02}r\xff\xff\xff\x7f.", {})
    with pytest.raises(SourceError, match="holds no tensors"):
        open_source(tmp_path / "x.bin")


@pytest.mark.parametrize("wrap", [b"\x85", b"a"])
def test_deep_nesting(tmp_path, wrap):
    depth = 200_000
    body = b"]" * depth + wrap * (depth - 1) if wrap == b"a" else b"N" + wrap * depth
    zip_with(tmp_path / "x.bin", b"\x80\x02}X\x01\x00\x00\x00a" + body + b"s.", {})
    with pytest.raises(SourceError, match="holds no tensors"):
        open_source(tmp_path / "x.bin")


@pytest.mark.parametrize("name", [b"\xed\xa0\x80", b"\x1b[2J", b"a\nb"])
def test_names_that_nobody_can_show(tmp_path, name):
    """Half a surrogate pair, a terminal command, a line break."""
    body = program().replace(b"X\x01\x00\x00\x00x", b"X" + len(name).to_bytes(4, "little") + name)
    zip_with(tmp_path / "x.bin", body, DATA)
    with pytest.raises(SourceError, match="no program shows or stores safely"):
        open_source(tmp_path / "x.bin")


@pytest.mark.parametrize("place", ["name", "cfg"])
def test_whole_numbers_that_nobody_can_print(tmp_path, place):
    """Python refuses to turn whole numbers of thousands of digits into text."""
    huge = pickle.dumps(10**6000, protocol=2)[2:-1]
    if place == "name":
        body = b"\x80\x02}" + huge + b"K\x01s."
    else:
        body = b"\x80\x02}X\x03\x00\x00\x00cfg}X\x01\x00\x00\x00n" + huge + b"ss."
    zip_with(tmp_path / "x.bin", body, DATA)
    with pytest.raises(SourceError, match="a whole number of 19932 bits"):
        open_source(tmp_path / "x.bin")


def test_a_list_that_holds_itself(tmp_path):
    nested = b"X\x03\x00\x00\x00cfg" + b"]q\x00h\x00a" + b"s" + b"X\x05\x00\x00\x00model"
    zip_with(tmp_path / "x.bin", b"\x80\x02}" + nested + program()[2:-1] + b"s.", DATA)
    source = open_source(tmp_path / "x.bin")
    assert "cfg" not in source.extra
    assert source.names() == ["x"]


def test_a_billion_laughs(tmp_path):
    """A tree of shared lists: small in the file, exponential for whoever walks it."""
    laughs = b"]q\x00"
    for i in range(40):
        laughs += b"]q" + bytes([i + 1]) + (b"h" + bytes([i]) + b"a") * 10
    cfg = b"X\x03\x00\x00\x00cfgh" + bytes([40]) + b"s"
    model = b"X\x05\x00\x00\x00model" + program()[2:-1] + b"s"
    zip_with(tmp_path / "x.bin", b"\x80\x02" + laughs + b"0" * 41 + b"}" + cfg + model + b".", DATA)
    source = open_source(tmp_path / "x.bin")
    assert "cfg" not in source.extra


# --- tensors that claim too much --------------------------------------------------------------------------------------


def test_the_handwritten_file_is_fine(tmp_path):
    zip_with(tmp_path / "x.bin", program(), DATA)
    np.testing.assert_array_equal(read_all(tmp_path / "x.bin")["x"], np.arange(6).reshape(2, 3))
    assert torch.load(tmp_path / "x.bin", weights_only=False)["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (dict(shape=(2, 4)), "element 6 of the storage 0, which has 6"),
        (dict(offset=1), "which has 6"),
        (dict(stride=(4, 1)), "which has 6"),
        (dict(shape=(1 << 40,), stride=(0,)), "elements that reaches"),
        (dict(shape=(1 << 62, 1 << 62), stride=(1, 1)), "not counts"),
        (dict(shape=(-1, 3)), "not counts"),
        (dict(stride=(-3, 1)), "not counts"),
        (dict(shape=(2.0, 3)), "not counts"),
        (dict(shape=(True, 3)), "not counts"),
        (dict(shape=(2,)), "1 sizes and 2 strides"),
        (dict(shape=(1,) * 40, stride=(1,) * 40), "not counts"),
        (dict(count=-1), "without a name or a size"),
        (dict(count=1 << 60), "without a name or a size"),
        (dict(count=100), "storage 0 has 24 bytes, its tensors need 400"),
        (dict(key=b"1"), "storage 1 is missing"),
        (dict(kind=b"ComplexFloatStorage"), "torch.ComplexFloatStorage"),
        (dict(kind=b"QInt8Storage"), "torch.QInt8Storage"),
    ],
)
def test_tensors_that_claim_too_much(tmp_path, claims, message):
    zip_with(tmp_path / "x.bin", program(**claims), DATA)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.bin")


def test_storages_that_contradict_each_other(tmp_path):
    body = (
        b"\x80\x02}(X\x01\x00\x00\x00x" + program()[9:-2] + b"X\x01\x00\x00\x00y" + program(kind=b"HalfStorage")[9:-2]
    )
    zip_with(tmp_path / "x.bin", body + b"u.", DATA)
    with pytest.raises(SourceError, match="described in two ways"):
        open_source(tmp_path / "x.bin")


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


def test_the_interpreter_knows_only_tensors():
    """The whole list of names that a file may mention: short enough to be read in one look."""
    from crab_jax.convert.unpickle import _ALLOWED

    assert all(name.startswith("torch.") or name == "collections.OrderedDict" for name in _ALLOWED)
    assert len(_ALLOWED) < 25
    result = Interpreter(pathlib.Path("x")).run(io.BytesIO(pickle.dumps({"a": [1, (2, 3)], "b": "ü"}, protocol=4)))
    assert result == {"a": [1, (2, 3)], "b": "ü"}
