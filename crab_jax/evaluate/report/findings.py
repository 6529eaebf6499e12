"""Everything that an evaluation left on disk, read for the page; what cannot be used is named and left out."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crab_jax.evaluate import journal, table
from crab_jax.evaluate.ablation import Ablation
from crab_jax.evaluate.ablation import read as read_ablation
from crab_jax.evaluate.baselines import Baseline, read_baselines
from crab_jax.evaluate.journal import Line
from crab_jax.evaluate.table import TestSet

ROUTER = "router.json"
SPEED = "speed.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Router:
    """Mean router weights over some items of a test set.

    Attributes:
        items: how many.
        linears: names of the second axis.
        weights: float64 [layers linears heads], every row adds up to 1.
    """

    items: int
    linears: Sequence[str]
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What `crab eval` wrote.

    Attributes:
        out: the folder.
        sets: test sets with their scores.
        settings: what the answers depend on; empty if that is not known.
        baselines: of a generated world; empty if none were given.
        routers: test set → router weights.
        speed: name of a run → what `speed.json` says.
        ablation: of training, if one was given.
        broken: files that could not be used, with the reason.
    """

    out: pathlib.Path
    sets: Sequence[TestSet]
    settings: Mapping[str, Any]
    baselines: Sequence[Baseline]
    routers: Mapping[tuple[str, str], Router]
    speed: Mapping[str, Mapping[str, Any]]
    ablation: Ablation | None
    broken: Sequence[str]

    def folder(self, of: TestSet) -> pathlib.Path:
        """Of the run that the headline of a test set is about."""
        mode, swap = of.main["mode"], of.main["swap"]
        return self.out / of.task / of.split / (f"{mode}-{swap}-swapped" if swap else mode)

    def lines(self, of: TestSet) -> list[Line]:
        """The answers of that run, in the order of the items; none if they cannot be read."""
        try:
            return journal.read_lines(journal.parts(self.folder(of))).lines
        except journal.JournalError:
            return []


def read_findings(out: pathlib.Path) -> Findings:
    """Reads a folder of results.

    Args:
        out: what `crab eval` was given as `--out`.
    """
    results = table.read_results(out)
    baselines, unusable = read_baselines(out)
    ablation, damaged = read_ablation(out)
    routers = {}
    for each in results.sets:
        found, reason = read_router(out / each.task / each.split / "decoded")
        if found is not None:
            routers[each.task, each.split] = found
        elif reason:
            unusable.append(reason)
    speed, reason = _speed(out / SPEED)
    return Findings(
        out=out, sets=results.sets, settings=results.settings, baselines=baselines, routers=routers, speed=speed,
        ablation=ablation, broken=[*results.broken, *unusable, *damaged, *([reason] if reason else [])],
    )  # fmt: skip


def read_router(folder: pathlib.Path) -> tuple[Router | None, str]:
    """`router.json` of a run; None without one, with the reason if it cannot be used."""
    path = folder / ROUTER
    try:
        told = json.loads(path.read_bytes())
        weights = np.asarray(told["weights"], np.float64)
        if weights.ndim != 3 or weights.shape[1] != len(told["linears"]) or not weights.size:
            raise ValueError(f"weights of shape {weights.shape}")
        if not np.isfinite(weights).all():
            raise ValueError("weights that are no numbers")
        return Router(items=len(told["items"]), linears=tuple(map(str, told["linears"])), weights=weights), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path}: expected router weights, found {type(error).__name__}: {error}; delete it and run again"


def _speed(path: pathlib.Path) -> tuple[dict[str, dict[str, Any]], str]:
    try:
        told = json.loads(path.read_bytes())
        usable = {
            name: run
            for name, run in told.items()
            if all(math.isfinite(run[key]) and run[key] >= 0 for key in ("items", "seconds", "compile_s"))
        }
        return usable, ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{path}: expected times, found {type(error).__name__}: {error}"
