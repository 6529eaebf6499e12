"""The endless sequence of examples: shuffled, mixed, and a pure function of the seed.

The sequence comes in blocks. What is in block b follows from b alone, without the blocks before it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from data_pipelines.stream.tables import StreamError, Table

Choice = Literal["one", "all"]


def random_bits(n: int, *key: object) -> np.ndarray:
    """uint64 [n], the same for the same key on every machine and with every version of NumPy.

    Only the raw bits of a generator are promised to stay the same; `permutation` and the like are not.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, np.uint64)).random_raw(n)


def random_order(n: int, *key: object) -> np.ndarray:
    """A permutation of 0 … n - 1, int64 [n]."""
    return np.argsort(random_bits(n, *key), kind="stable")


class Mixture:
    """Numbers of examples; those of all tables are counted through, in their order.

    A *unit* is what comes once per epoch: an example, or one of several alternatives, another one each epoch until all
    have been there (Q-24).
    """

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        seed: int,
        weights: Mapping[str, float] | None,
        choose: Choice,
        epochs: int | None,
        block: int,
    ):
        """Prepares the sequence.

        Args:
            tables: the sources.
            seed: of everything random.
            weights: name of a table → share of the examples, in any unit; each table then has epochs of its own, and
                one that is not named is not used. None: one shuffle of everything, so that each table has its natural
                share and an epoch holds every unit once (the reference's concatenation).
            choose: "one" alternative of each unit per epoch, or "all" of them, which makes each a unit.
            epochs: how often as many units come as there are; None: without end. With weights, tables with more than
                their natural share come more often than this, others less.
            block: units per block.

        Raises:
            StreamError: no examples, weights that do not fit the tables, a number below one.
        """
        if block < 1 or (epochs is not None and epochs < 1):
            raise StreamError(f"expected at least one unit per block and one epoch, found {block} and {epochs}")
        if choose not in ("one", "all"):
            raise StreamError(f"choose: expected 'one' or 'all', found {choose!r}")
        self._block = block
        firsts, counts, offset = [], [], 0
        for table in tables:
            unit = table.unit if choose == "one" else np.arange(len(table))
            _, first, count = np.unique(unit, return_index=True, return_counts=True)
            firsts.append(first + offset)
            counts.append(count)
            offset += len(table)
        names = [table.name for table in tables]
        shares = _shares(names, weights)
        if weights is None:
            names, firsts, counts = ["everything"], [np.concatenate(firsts)], [np.concatenate(counts)]
        self._pools = [
            _Pool(name, int(seed), first, count, share)
            for name, first, count, share in zip(names, firsts, counts, shares)
            if share
        ]
        if empty := [pool.name for pool in self._pools if not len(pool)]:
            raise StreamError(f"{', '.join(empty)}: no example that could be used")
        self.units = sum(map(len, self._pools))
        self._total = None if epochs is None else epochs * self.units

    @property
    def blocks(self) -> int | None:
        """How many there are; None without end."""
        return None if self._total is None else -(-self._total // self._block)

    def block(self, number: int) -> np.ndarray:
        """Numbers of the examples of one block, int64 [n], table by table; n is about the block's size.

        Raises:
            IndexError: there is no such block.
        """
        if number < 0 or (self._total is not None and number >= self.blocks):
            raise IndexError(f"no block {number}, there are {self.blocks}")
        start, stop = (self._bounded(n * self._block) for n in (number, number + 1))
        return np.concatenate([pool.between(start, stop) for pool in self._pools])

    def _bounded(self, position: int) -> int:
        return position if self._total is None else min(position, self._total)


class _Pool:
    """Units that are shuffled together."""

    def __init__(self, name: str, seed: int, first: np.ndarray, count: np.ndarray, share: Fraction):
        self.name, self._seed, self._first, self._count, self._share = name, seed, first, count, share
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return len(self._first)

    def __getstate__(self):
        return self.__dict__ | {"_order": None}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def between(self, start: int, stop: int) -> np.ndarray:
        """This pool's part of the positions `[start, stop)` of the mixture: its share, exact in the long run."""
        start, stop = (int(self._share * position) for position in (start, stop))
        position = np.arange(start, stop)
        parts = [
            self._order(epoch)[position[position // len(self) == epoch] % len(self)]
            for epoch in range(start // len(self), -(-stop // len(self)))
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Examples of one epoch, in their order."""
        turn = random_bits(len(self), self._seed, self.name, "alternatives") % self._count.astype(np.uint64)
        chosen = self._first + (turn.astype(np.int64) + epoch) % self._count
        return chosen[random_order(len(self), self._seed, self.name, epoch)]


def _shares(names: Sequence[str], weights: Mapping[str, float] | None) -> list[Fraction]:
    """Exact shares, which add up to one."""
    if weights is None:
        return [Fraction(1)]
    if unknown := sorted(set(weights) - set(names)):
        raise StreamError(f"weights: {unknown[0]!r} is no source; there are {', '.join(names)}")
    exact = []
    for name in names:
        try:
            exact.append(Fraction(weights.get(name, 0)))
        except (ValueError, TypeError, ArithmeticError) as error:
            found = f"found {weights[name]!r:.60} for {name}"
            raise StreamError(f"weights: expected numbers from 0 up, {found}") from error
    if min(exact) < 0 or not sum(exact):
        raise StreamError(f"weights: expected numbers from 0 up and one above 0, found {dict(weights)}")
    return [w / sum(exact) for w in exact]
