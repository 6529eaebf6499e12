"""Reads recorded cases: `<case>.json` is the manifest, with all sizes and tolerances; `<case>.npz` holds the arrays."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

# manifest → (worst ratio of error to tolerance, what it was, largest |error| of that, number of comparisons)
WORST: dict[str, tuple[float, str, float, int]] = {}

GIVEN = ("input", "weight")  # every other role is a result: output, intermediate, gradient …
GRADIENT = ("grad", "gradient")


def find(folder: pathlib.Path, prefix: str) -> list[pathlib.Path]:
    """Manifests of the cases that start with `prefix`, wherever they lie under `folder`; weight files are no cases."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        found += [pathlib.Path(place, n) for n in names if n.startswith(prefix) and n.endswith(".json")]
    return sorted(p for p in found if not p.stem.endswith("weights"))


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def part_of(about: str, x: np.ndarray) -> np.ndarray:
    """The part of the full array `x` that a recorded tensor holds, read from its description.

    For example `full shape [1, 300, 256]; strided view [:, ::9, ::13]`, or `flatten()[::109] of [256, 256]`.
    """
    if flat := re.search(r"flatten\(\)\s*\[::(\d+)\]", about):
        return x.reshape(-1)[:: int(flat[1])]
    slices = [found for found in re.findall(r"\[([^\[\]]*)\]", about) if ":" in found]
    if not slices:
        return x
    (text,) = slices
    return x[tuple(slice(*(int(n) if n.strip() else None for n in s.strip().split(":"))) for s in text.split(","))]


class Case:
    """One recorded case, and a ledger of what was compared with it."""

    def __init__(self, manifest: pathlib.Path):
        self.path = manifest
        self.folder = manifest.parent
        self.name = manifest.stem
        self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        self.config: dict[str, Any] = self.manifest["config"]
        self.tensors: dict[str, dict[str, Any]] = self.manifest["tensors"]
        arrays = manifest.with_suffix(".npz")
        self.arrays: dict[str, np.ndarray] = dict(_read(arrays)) if arrays.exists() else {}
        self.compared: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def names(self, role: str | None = None, prefix: str = "") -> list[str]:
        """Names of the recorded tensors with this role and prefix."""
        return [n for n, t in self.tensors.items() if n.startswith(prefix) and (role is None or t["role"] == role)]

    def results(self, prefix: str = "") -> list[str]:
        """Names of everything that was computed: whatever is neither an input nor a weight."""
        return [n for n in self.names(prefix=prefix) if self.tensors[n]["role"] not in GIVEN]

    def gradients(self) -> list[str]:
        """Names of the recorded gradients."""
        return [n for n in self.tensors if self.tensors[n]["role"] in GRADIENT]

    def about(self, name: str) -> str:
        """What the manifest says about a tensor in words; empty if nothing."""
        return self.tensors[name].get("about") or ""

    def variants(self) -> list[str]:
        """The first parts of names such as `a3d/fbank`, for the cases that hold several runs."""
        return sorted({name.split("/")[0] for name in self.names("input") if "/" in name})

    def sibling(self, stem: str) -> Case:
        """Another case of the same folder, for example `c09_weights`."""
        return Case(self.folder / f"{stem}.json")

    def mentioned(self, prefix: str) -> Case:
        """The case whose name starts with `prefix` that this one takes its batch from: the one in the notes, if any."""
        words = re.findall(r"[\w-]+", " ".join(self.manifest.get("notes", [])))
        named = [w for w in words if w.startswith(prefix) and (self.folder / f"{w}.json").is_file()]
        found = named or [p.stem for p in find(self.folder, prefix) if p.parent == self.folder]
        assert found, f"{self.name}: no case {prefix}* beside it, which holds its batch"
        return self.sibling(found[0])

    def weights(self) -> Case:
        """The weights that belong to this case."""
        files = [pathlib.PurePath(f["path"]).stem for f in self.manifest["files"]]
        (stem,) = [s for s in files if s.endswith("weights") and s != self.name]
        return self.sibling(stem)

    def file(self, suffix: str) -> pathlib.Path:
        """The file (or folder) of the case whose path ends so."""
        (path,) = [self.folder / f["path"] for f in self.manifest["files"] if f["path"].rstrip("/").endswith(suffix)]
        return path

    def check(self, name: str, value: Any, *, where: Any = ..., expected: np.ndarray | None = None) -> None:
        """Compares `value` with the recorded tensor `name` under the tolerance of the manifest.

        Args:
            name: tensor in the manifest.
            value: what we computed, same shape.
            where: index or boolean mask that selects the comparable part of both.
            expected: used instead of the recorded array (for values derived from it).
        """
        self.compared.add(name)
        tol = self.tensors[name].get("tol") or {}
        want = np.asarray(self.arrays[name] if expected is None else expected)
        got = np.asarray(value)
        assert got.shape == want.shape, f"{self.name}/{name}: shape {got.shape}, recorded {want.shape}"
        got, want = got[where], want[where]
        if not np.issubdtype(want.dtype, np.floating):
            self._check_exact(name, got, want, tol)
            return
        want = want.astype(np.float64)
        error = np.abs(got.astype(np.float64) - want)
        if "mean_abs" in tol:
            allowed_error, error = np.asarray(tol["mean_abs"]), np.asarray(error.mean())
        else:
            allowed_error = tol.get("atol", 0.0) + tol.get("rtol", 0.0) * np.abs(want)
        ratio = np.where(error == 0, 0.0, error / np.maximum(allowed_error, 1e-300))
        worst = float(ratio.max()) if ratio.size else 0.0
        if "median_abs" in tol and error.size:
            worst = max(worst, float(np.median(error)) / tol["median_abs"])
        if "max_fraction_outside" in tol:
            outside = float(np.mean(ratio > 1))
            hard = float(error.max() / tol["hard_atol"])
            worst = max(outside / tol["max_fraction_outside"], hard)
        if not np.isfinite(got).all():
            worst = np.inf
        self.note(name, worst, float(error.max()) if error.size else 0.0)
        assert np.isfinite(got).all(), f"{self.name}/{name}: not finite"
        assert worst <= 1, f"{self.name}/{name}: {worst:.3g} times the tolerance {tol}, max |error| {error.max():.3g}"

    def _check_exact(self, name: str, got: np.ndarray, want: np.ndarray, tol: dict[str, Any]) -> None:
        """Integers and booleans: none further off than `atol`, and (without one) few that differ at all."""
        step = tol.get("atol") or 0
        far = np.abs(got.astype(np.int64) - want.astype(np.int64)) > step
        different = float(np.mean(got != want)) if want.size else 0.0
        allowed = tol.get("max_fraction_different", 1.0 if step else 0.0)
        ratio = 0.0 if different == 0 else different / allowed if allowed else np.inf
        if step and far.any():
            ratio = np.inf
        self.note(name, ratio, float(np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0)))
        assert not (step and far.any()), f"{self.name}/{name}: {far.mean():.2%} further off than {step}"
        assert different <= allowed, (
            f"{self.name}/{name}: {different:.2%} of the elements differ, allowed {allowed:.2%}"
        )

    def close(self) -> None:
        """Fails if a recorded result was never compared."""
        forgotten = sorted(set(self.results()) - self.compared)
        assert not forgotten, f"{self.name}: never compared: {forgotten}"

    @contextlib.contextmanager
    def exactly(self, what: str) -> Iterator[None]:
        """Notes that what is asserted inside, which has no tolerance, holds or does not."""
        try:
            yield
        except AssertionError:
            self.note(what, np.inf, np.inf)
            raise
        self.note(what, 0.0, 0.0)

    def note(self, name: str, ratio: float, error: float) -> None:
        """Writes a comparison down for the summary: `ratio` is the error in tolerances."""
        before = WORST.get(str(self.path), (-1.0, "", 0.0, 0))
        worse = before[:3] if ratio <= before[0] else (ratio, name, error)
        WORST[str(self.path)] = (*worse, before[3] + 1)
