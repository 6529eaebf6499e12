"""Files that ship with the package, and the scripts that made them."""

from __future__ import annotations

import os
import pathlib

MODELS = ("mini",)  # folders beside this file that hold trained weights, see docs/mini.md


def weights_folder(name: str | os.PathLike) -> pathlib.Path:
    """A weights folder as people name it: a path, or the name of a model that comes with the project.

    A folder in the working directory goes before a shipped model of the same name.
    """
    path = pathlib.Path(name)
    if str(name) in MODELS and not path.exists():
        return pathlib.Path(__file__).parent / str(name)
    return path
