"""PyTorch files written byte by byte, so that every claim in them can be changed; and every tensor of a file, read."""

from __future__ import annotations

import pathlib
import pickle
import zipfile

import numpy as np

from crab_jax.convert.sources import open_source


def read_all(path) -> dict[str, np.ndarray]:
    source = open_source(path)
    return {name: source.read(name) for name in source.names()}


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
