"""Weight files that are fine: read as PyTorch reads them, and written so that PyTorch and safetensors read them."""

from __future__ import annotations

import collections
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from weight_archives import read_all  # noqa: E402

from crab_jax.convert.sources import SourceError, open_source, write_safetensors, write_torch  # noqa: E402
from crab_jax.convert.tensors import Tensor  # noqa: E402


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
