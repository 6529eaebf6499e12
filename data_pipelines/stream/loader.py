"""The iterator over batches: workers, saved states, budgets. The only file that imports Grain (and with it jax)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from crab_jax.batch import Batch, FeatureSizes
from crab_jax.layout import Layout
from crab_jax.tasks import Wording
from crab_jax.tokens import Tokenizer
from data_pipelines.stream.mixture import Choice, Mixture
from data_pipelines.stream.packing import Plan
from data_pipelines.stream.rows import Info, RowReader, Skipped
from data_pipelines.stream.tables import LeftOut, Source, StreamError, default_cache, read_table, tokenizer_digest
from data_pipelines.worker import SIGNALS, belong_to_parent, signals_kept_from_workers

_STATE = 2  # version of saved states; the first had no checksum
# Workers are many, so each has one thread for linear algebra. Memory of pictures and rows stays theirs: glibc would
# give it back to the system each time, and getting it again costs up to a fifth of the time of an example.
_WORKERS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class StateError(ValueError):
    """A saved state of another stream; the message names every difference."""


class BudgetError(RuntimeError):
    """More examples could not be read than `StreamSettings.max_skipped` allows."""


class WorkerError(RuntimeError):
    """A worker process ended without being asked to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """What decides which batches there are. A saved state fits only the settings it was made with.

    Attributes:
        layout: of a row.
        rows: of a global batch, over all processes.
        wording: how tasks ask. Masks are attached where a wording shows a single picture (specification 9.3); for
            the mask stages this is the quick-start wording.
        seed: of everything random.
        weights: see `Mixture`; None joins the sources as the reference does.
        choose: "one" of the alternatives of a question per epoch, or "all" (Q-24).
        packed: several examples per row, or one.
        epochs: see `Mixture`; None: without end. The last batch of a stream that ends is filled up with empty rows.
        block: units that are packed together; more fill rows better and shuffle wider, and take longer to plan.
        max_left_out: share of the examples that may be unusable or larger than the layout.
    """

    layout: Layout
    rows: int
    wording: Wording = Wording.QUICK_START
    seed: int = 0
    weights: Mapping[str, float] | None = None
    choose: Choice = "one"
    packed: bool = True
    epochs: int | None = None
    block: int = 2048
    max_left_out: float = 0.01


class Stream(Iterator[tuple[Batch, Info]]):
    """Endless batches of one process; `with Stream(…) as stream: for batch, info in stream: …`.

    Batch n of all processes together is a pure function of the settings, the shards and n, for any number of processes
    and workers. A state is the number of the next batch, and what was skipped so far.

    Worker processes start with the first batch, by importing the main module anew: a script that uses them needs
    `if __name__ == "__main__":`.

    Attributes:
        left_out: what no stream of these settings has, with reasons.
        units: questions per epoch.
        skipped: name → reason, of what could not be read so far.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        settings: StreamSettings,
        *,
        tokenizer: Tokenizer,
        sizes: FeatureSizes,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        buffer: int = 2,
        max_skipped: int = 100,
        cache: pathlib.Path | bool = True,
    ):
        """Measures all examples and plans the first rows; reads no media yet.

        Args:
            sources: splits of data sets, each once; their order matters.
            settings: what decides which batches there are.
            tokenizer: the model's.
            sizes: `CrabConfig.feature_sizes`.
            process: number of this process; it gets its rows of each global batch, neighbours of each other.
            processes: how many share the batches.
            workers: processes that read and decode for this one; 0: a thread.
            buffer: batches that each worker, or the thread, keeps ready.
            max_skipped: how many different examples may turn out to be unreadable.
            cache: folder of remembered lengths of texts; True: `default_cache()`; False: nowhere.

        Raises:
            StreamError: settings that do not fit the data, or too much of it cannot be used.
            data_pipelines.records.ShardError: a damaged index.
        """
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise StreamError(f"sources: expected at least one, each once, found {', '.join(names) or 'none'}")
        if settings.rows < 1 or settings.rows % processes or not 0 <= process < processes:
            raise StreamError(
                f"rows: expected a multiple of the number of processes, found {settings.rows} rows for process "
                f"{process} of {processes}"
            )
        if workers < 0 or buffer < 1:
            raise StreamError(f"expected workers from 0 and a buffer from 1, found {workers} and {buffer}")
        folder = default_cache() if cache is True else cache or None
        wording, layout = settings.wording, settings.layout
        tables = [
            read_table(source, wording=wording, tokenizer=tokenizer, sizes=sizes, cache=folder).fitting(
                layout, index=source.shards.index
            )
            for source in sources
        ]
        self.left_out: tuple[LeftOut, ...] = tuple(x for table in tables for x in table.left_out)
        total = sum(map(len, tables)) + len(self.left_out)
        if len(self.left_out) > settings.max_left_out * total:
            shown = "\n".join(f"  {x.name}: {x.reason}" for x in self.left_out[:5])
            raise StreamError(
                f"{len(self.left_out)} of {total} examples cannot be used, max_left_out allows "
                f"{settings.max_left_out:.2%}; the first ones:\n{shown}"
            )
        mixture = Mixture(
            tables,
            seed=settings.seed,
            weights=settings.weights,
            choose=settings.choose,
            epochs=settings.epochs,
            block=settings.block,
        )
        self.units = mixture.units
        size = np.concatenate([table.size for table in tables])
        plan = Plan(mixture, size, layout=layout, packed=settings.packed, seed=settings.seed)
        self._reader = RowReader(
            sources,
            tables,
            plan,
            layout=layout,
            wording=wording,
            tokenizer=tokenizer,
            sizes=sizes,
            rows=settings.rows,
            process=process,
            processes=processes,
            packed=settings.packed,
        )
        self._fingerprint = _fingerprint(settings, tokenizer, sizes) | {
            f"source {i + 1}": f"{table.name} {table.digest}" for i, table in enumerate(tables)
        }
        self._workers, self._buffer, self._max_skipped = workers, buffer, max_skipped
        self._next, self._cursor = 0, (0, 0)
        self._batches: Any = None
        self.skipped: dict[str, str] = {}

    def __next__(self) -> tuple[Batch, Info]:
        """The next batch.

        Raises:
            StopIteration: behind the last epoch.
            BudgetError: too many examples could not be read.
            WorkerError: a worker died.
        """
        try:
            with _worker_environment() if self._workers else contextlib.nullcontext():
                if self._batches is None:
                    self._batches = self._start()
                found = next(self._batches)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            self.close()
            raise WorkerError(
                f"batch {self._next}: a worker process of the data stream died ({error}); mostly it was killed for "
                f"lack of memory, or of shared memory (/dev/shm; containers often have 64 MiB of it, docker run "
                f"--shm-size gives more): fewer workers than {self._workers} or a smaller buffer than {self._buffer} "
                "need less. The stream goes on from a saved state. If no batch ever comes: workers import the main "
                'module, so a script needs `if __name__ == "__main__":`'
            ) from error
        if isinstance(found, str):  # `_END`, which is another object after the way between processes
            self.close()
            raise StopIteration
        batch, info = found
        if self._workers:
            # Workers hand over shared memory, which a thread of Grain's frees when an array goes. Copies
            # live as long as anybody wants, also beyond the end of the workers; what they cost was not measured.
            batch = Batch(*map(np.array, batch))
        self._next, self._cursor = self._next + 1, info.cursor
        self._count(info.skipped)
        return batch, info

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on with the batch that comes next; plain JSON types."""
        state = {
            "version": _STATE,
            "batch": self._next,
            "cursor": list(self._cursor),  # only saves planning what lies before
            "skipped": dict(self.skipped),
            "stream": dict(self._fingerprint),
        }
        return state | {"checksum": _checksum(state)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state was taken, perhaps with another number of processes or workers.

        Raises:
            StateError: no state, a damaged one, or one of other settings, shards, sizes or tokenizer; names what
                differs.
        """
        expected = f"expected the state of a data stream, version {_STATE}"
        if isinstance(state, Mapping) and "stream" in state and state.get("version") != _STATE:
            raise StateError(
                f"{expected}, found version {state.get('version')}, of another version of the program; finish with "
                "that one, or begin the stream anew"
            )
        try:
            version, number, (block, row) = state["version"], state["batch"], state["cursor"]
            skipped, theirs = dict(state["skipped"]), dict(state["stream"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"expected the state of a data stream, found {type(error).__name__}: {error}") from error
        if version != _STATE or not all(type(x) is int and x >= 0 for x in (number, block, row)):
            raise StateError(f"{expected}, found version {version}, batch {number}, cursor {block}, {row}")
        if state.get("checksum") != (checksum := _checksum(state)):
            raise StateError(
                f"{expected}, found one that was changed after it was taken: checksum {state.get('checksum')!r:.80} "
                f"instead of {checksum}; go on from an older state"
            )
        ours = self._fingerprint
        differences = [
            f"{key}: {theirs.get(key, 'nothing')} in the state, {ours.get(key, 'nothing')} here"
            for key in dict.fromkeys([*ours, *theirs])
            if theirs.get(key) != ours.get(key)
        ]
        if differences:
            raise StateError("the state belongs to another stream:\n  " + "\n  ".join(differences))
        self.close()
        self._next, self._cursor, self.skipped = number, (block, row), skipped
        self._reader.plan.start_from(block, row)

    def examples_per_row(self, rows: int = 256) -> float:
        """Average number of examples in the first rows of the stream, from the plan alone: 1 without packing."""
        held = [len(found) for k in range(rows) if (found := self._reader.plan.row(k)) is not None]
        return sum(held) / len(held)

    def close(self) -> None:
        """Ends the workers. Another batch starts them again."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> Any:
        batches = grain.MapDataset.source(_From(self._reader, self._next))
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain looks at its flags, which only programs built on absl ever parse
                flags.FLAGS.mark_as_parsed()
            reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            processes = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=self._buffer)
            started = iter(batches.to_iter_dataset(reading).mp_prefetch(processes, worker_init_fn=_begin_worker))
            with signals_kept_from_workers():
                started.get_state()  # makes the iterators of all workers, which would not start before the first batch
                started.start_prefetch()
            return started
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=self._buffer)))

    def _count(self, skipped: Sequence[Skipped]) -> None:
        self.skipped |= {x.name: x.reason for x in skipped}
        if len(self.skipped) > self._max_skipped:
            self.close()
            shown = "\n".join(f"  {name}: {reason}" for name, reason in list(self.skipped.items())[-5:])
            raise BudgetError(
                f"{len(self.skipped)} examples could not be read, max_skipped allows {self._max_skipped}; the last "
                f"ones:\n{shown}"
            )


class _From:
    """Batches from one on, as Grain wants a source of data."""

    def __init__(self, reader: RowReader, start: int):
        self._reader, self._start = reader, start

    def __len__(self) -> int:
        return sys.maxsize  # where a stream ends is only known by planning all of it; `_END` tells

    def __getitem__(self, index: int):
        return self._reader.batch(self._start + index) or _END


def _begin_worker(number: int, count: int) -> None:
    """A signal to all processes is the parent's: it goes on to a checkpoint, with batches, and asks workers to end."""
    belong_to_parent(ignore=SIGNALS)


_END = "end of the stream"  # a string, because Grain drops None, and equal strings survive the way between processes


def _fingerprint(settings: StreamSettings, tokenizer: Tokenizer, sizes: FeatureSizes) -> dict[str, Any]:
    """Everything that batches depend on, in plain JSON types, so that a state can be compared after it was saved."""
    told = dataclasses.asdict(settings) | {"wording": settings.wording.value}
    del told["max_left_out"]
    layout = {f"layout.{k}": v for k, v in told.pop("layout").items()}
    weights = told.pop("weights")
    told["weights"] = None if weights is None else dict(sorted(weights.items()))
    told |= layout | dataclasses.asdict(sizes) | {"tokenizer": tokenizer_digest(tokenizer)}
    return json.loads(json.dumps(told))


def _checksum(state: Mapping[str, Any]) -> str:
    """Of everything in a state but the checksum itself, whatever the order."""
    told = {key: value for key, value in state.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Processes that start meanwhile find these variables, unless the user has chosen others."""
    chosen = {name: value for name, value in _WORKERS.items() if name not in os.environ}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name in chosen:
            os.environ.pop(name, None)
