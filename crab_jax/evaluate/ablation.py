"""What `launch.ablation` has found, beside the results of an evaluation. No jax here."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from crab_jax.evaluate import journal

ABLATION = "ablation.json"


class AblationError(ValueError):
    """No ablation where it was looked for."""


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A table of scores.

    Attributes:
        variants: columns.
        rows: name of a number, such as `ave/test, accuracy` → for every variant its scores, seed by seed.
    """

    variants: Sequence[str]
    rows: Mapping[str, Sequence[Sequence[float]]]

    def cells(self, row: str) -> list[str]:
        """One row, for people."""
        return [cell(values) for values in self.rows[row]]


def bring(path: pathlib.Path, out: pathlib.Path) -> None:
    """Copies the scores of an ablation into a folder of results.

    Args:
        path: what `launch.ablation` was given as `--out`, or the `ablation.json` in it.
        out: the folder of results.

    Raises:
        AblationError: there is none.
        OSError: it cannot be written.
    """
    file = path / ABLATION if path.is_dir() else path
    try:
        data = file.read_bytes()
        _parse(json.loads(data))
    except (OSError, ValueError) as error:
        raise AblationError(f"--ablation {file}: expected what launch.ablation wrote, found {error}") from error
    journal.publish(out / ABLATION, data)


def read(out: pathlib.Path) -> tuple[Ablation | None, list[str]]:
    """The ablation in a folder of results, if there is one, and why it cannot be used."""
    path = out / ABLATION
    try:
        return _parse(json.loads(path.read_bytes())), []
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError) as error:
        return None, [f"{path}: expected an ablation, found {error}; give --ablation again"]


def _parse(told: Any) -> Ablation:
    if not isinstance(told, dict) or not all(isinstance(numbers, dict) for numbers in told.values()):
        raise ValueError("no variants with numbers")
    names = list(dict.fromkeys(name for numbers in told.values() for name in numbers))
    if not names:
        raise ValueError("no numbers")
    for values in (values for numbers in told.values() for values in numbers.values()):
        if not isinstance(values, list) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ValueError(f"scores {values!r:.60}")
    return Ablation(tuple(told), {name: [numbers.get(name, []) for numbers in told.values()] for name in names})


def cell(values: Sequence[float]) -> str:
    """Mean ± standard deviation (number of seeds)."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread} ({len(values)})"
