"""Hostile weight files: each is an error that names the file, and nothing is ever executed."""

from __future__ import annotations

import io
import os
import pathlib
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from weight_archives import DATA, program, read_all, zip_with  # noqa: E402

from crab_jax.convert.sources import SourceError, open_source  # noqa: E402
from crab_jax.convert.unpickle import Interpreter  # noqa: E402

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


def test_the_interpreter_knows_only_tensors():
    """The whole list of names that a file may mention: short enough to be read in one look."""
    from crab_jax.convert.unpickle import _ALLOWED

    assert all(name.startswith("torch.") or name == "collections.OrderedDict" for name in _ALLOWED)
    assert len(_ALLOWED) < 25
    result = Interpreter(pathlib.Path("x")).run(io.BytesIO(pickle.dumps({"a": [1, (2, 3)], "b": "ü"}, protocol=4)))
    assert result == {"a": [1, (2, 3)], "b": "ü"}


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
