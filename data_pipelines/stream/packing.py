"""Blocks of examples → rows. Row k is a pure function of settings, seed and k; nothing is read for it."""

from __future__ import annotations

import collections
import threading

import numpy as np

from crab_jax.layout import Layout
from data_pipelines.examples import ExampleSize
from data_pipelines.stream.mixture import Mixture, random_order

PACKED = ("tokens", "frames", "windows", "masks")  # what adds up in a row; columns of a size
_KEPT_BLOCKS = 3


def best_fit(size: np.ndarray, capacity: np.ndarray) -> list[np.ndarray]:
    """Best-fit decreasing in several resources at once.

    The examples come in the order of their largest share of a row, the largest first; each goes into the row where the
    fewest tokens stay free, or into a new one.

    Args:
        size: int [n r]; the first column, tokens, decides between rows. None may exceed the capacity.
        capacity: int [r].

    Returns:
        Rows, as numbers of examples, int64 [n]; each example is in one of them.
    """
    if not len(size):
        return []
    used = capacity > 0
    share = (size[:, used] / capacity[used]).max(axis=1)
    smallest = size.min(axis=0)
    rows: list[list[int]] = []
    free = np.zeros((len(size), len(capacity)), np.int64)
    row_of = np.zeros(len(size), np.int64)  # of the entries of `free`
    open_rows = 0
    for i in np.argsort(-share, kind="stable"):
        room = (free[:open_rows] >= size[i]).all(axis=1)
        if room.any():
            at = int(np.argmin(np.where(room, free[:open_rows, 0], np.iinfo(np.int64).max)))
            rows[row_of[at]].append(int(i))
        else:
            at = open_rows
            open_rows += 1
            free[at], row_of[at] = capacity, len(rows)
            rows.append([int(i)])
        free[at] -= size[i]
        if (free[at] < smallest).any():  # nothing will ever fit: the search need not look at it again
            open_rows -= 1
            free[at], row_of[at] = free[open_rows], row_of[open_rows]
    return [np.array(row) for row in rows]


class Plan:
    """Which examples stand in which row."""

    def __init__(self, mixture: Mixture, size: np.ndarray, *, layout: Layout, packed: bool, seed: int):
        """Prepares the plan.

        Args:
            mixture: the sequence of examples.
            size: int32 [n 5] of all examples, as in `Table`.
            layout: what a row holds.
            packed: whether a row holds several examples, or one.
            seed: of the order of rows in a block.
        """
        self._mixture, self._packed, self._seed = mixture, packed, seed
        self._size = size[:, [ExampleSize._fields.index(r) for r in PACKED]]
        self._capacity = np.array([getattr(layout, r) for r in PACKED])
        self._first_block, self._starts = 0, [0]  # number of the first row of each known block, and of the next one
        self._blocks: collections.OrderedDict[int, list[np.ndarray]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_blocks")}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._blocks, self._lock = collections.OrderedDict(), threading.Lock()

    def start_from(self, block: int, row: int) -> None:
        """Tells that a block begins with a row, so that what lies before need not be planned (`cursor`)."""
        with self._lock:
            self._first_block, self._starts = block, [row]

    def cursor(self, row: int) -> tuple[int, int]:
        """The block that holds a row, or the one behind the last, and the number of its first row."""
        with self._lock:
            at = self._locate(row)
            at = len(self._starts) - 1 if at is None else at
            return self._first_block + at, self._starts[at]

    def row(self, number: int) -> np.ndarray | None:
        """Examples of a row, int64 [n]; None behind the last row.

        Raises:
            IndexError: a negative number.
        """
        if number < 0:
            raise IndexError(f"no row {number}")
        with self._lock:
            at = self._locate(number)
            return None if at is None else self._rows(self._first_block + at)[number - self._starts[at]]

    def _locate(self, row: int) -> int | None:
        """Place in `_starts` of the block that holds a row."""
        if row < self._starts[0]:
            self._first_block, self._starts = 0, [0]
        while row >= self._starts[-1]:
            block = self._first_block + len(self._starts) - 1
            if self._mixture.blocks is not None and block >= self._mixture.blocks:
                return None
            self._starts.append(self._starts[-1] + len(self._rows(block)))
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _rows(self, block: int) -> list[np.ndarray]:
        if block not in self._blocks:
            examples = self._mixture.block(block)
            if self._packed:
                rows = [examples[row] for row in best_fit(self._size[examples], self._capacity)]
            else:
                rows = [examples[i : i + 1] for i in range(len(examples))]
            self._blocks[block] = [rows[i] for i in random_order(len(rows), self._seed, "rows", block)]
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[block]
