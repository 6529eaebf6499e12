"""A set of published files, what it converts to, and whether it comes back: for the tests of the conversion."""

from __future__ import annotations

import pathlib
import shutil

import published_files as files
import pytest
import torch

from crab_jax.convert.crab import CRAB_FILES
from crab_jax.convert.export import export
from crab_jax.convert.plan import make_plan
from crab_jax.convert.run import convert
from crab_jax.convert.sources import open_source


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
