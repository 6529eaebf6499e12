"""Reads recorded cases: `<case>.json` is the manifest, with all sizes and tolerances; `<case>.npz` holds the arrays."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import numpy as np

# case → (worst ratio of error to tolerance, tensor, largest |error| of that tensor, number of tensors compared)
WORST: dict[str, tuple[float, str, float, int]] = {}


def find(folder: pathlib.Path, prefix: str) -> list[pathlib.Path]:
    """Manifests of the cases that start with `prefix`, wherever they lie under `folder`; weight files are no cases."""
    return sorted(p for p in folder.rglob(f"{prefix}*.json") if not p.stem.endswith("weights") and "crab" not in p.stem)


@functools.lru_cache(maxsize=8)
def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


class Case:
    """One recorded case."""

    def __init__(self, manifest: pathlib.Path):
        self.path = manifest
        self.folder = manifest.parent
        self.name = manifest.stem
        self.manifest: dict[str, Any] = json.loads(manifest.read_text())
        self.config: dict[str, Any] = self.manifest["config"]
        self.tensors: dict[str, dict[str, Any]] = self.manifest["tensors"]
        arrays = manifest.with_suffix(".npz")
        self.arrays: dict[str, np.ndarray] = dict(_read(arrays)) if arrays.exists() else {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def names(self, role: str | None = None, prefix: str = "") -> list[str]:
        """Names of the recorded tensors with this role and prefix."""
        return [n for n, t in self.tensors.items() if n.startswith(prefix) and (role is None or t["role"] == role)]

    def sibling(self, stem: str) -> Case:
        """Another case of the same folder, for example `c09_weights`."""
        return Case(self.folder / f"{stem}.json")

    def check(self, name: str, value: Any, *, where: Any = ..., expected: np.ndarray | None = None) -> None:
        """Compares `value` with the recorded tensor `name` under the tolerance of the manifest.

        Args:
            name: tensor in the manifest.
            value: what we computed, same shape.
            where: index or boolean mask that selects the comparable part of both.
            expected: used instead of the recorded array (for values derived from it).
        """
        tol = self.tensors[name].get("tol") or {}
        want = np.asarray(self.arrays[name] if expected is None else expected)
        got = np.asarray(value)
        assert got.shape == want.shape, f"{self.name}/{name}: shape {got.shape}, recorded {want.shape}"
        got, want = got[where], want[where]
        if not np.issubdtype(want.dtype, np.floating):
            different = float(np.mean(got != want)) if want.size else 0.0
            allowed = tol.get("max_fraction_different", 0.0)
            if tol.get("atol"):
                far = np.abs(got.astype(np.int64) - want.astype(np.int64)) > tol["atol"]
                assert not far.any(), f"{self.name}/{name}: {far.mean():.2%} further off than {tol['atol']}"
            self._note(name, different / allowed if allowed else (0.0 if different == 0 else np.inf), different)
            assert different <= allowed, (
                f"{self.name}/{name}: {different:.2%} of the elements differ, allowed {allowed:.2%}"
            )
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
        self._note(name, worst, float(error.max()) if error.size else 0.0)
        assert np.isfinite(got).all(), f"{self.name}/{name}: not finite"
        assert worst <= 1, f"{self.name}/{name}: {worst:.3g} times the tolerance {tol}, max |error| {error.max():.3g}"

    def _note(self, name: str, ratio: float, error: float) -> None:
        before = WORST.get(self.name, (-1.0, "", 0.0, 0))
        worse = (ratio, name, error) if ratio > before[0] else before[:3]
        WORST[self.name] = (*worse, before[3] + 1)
