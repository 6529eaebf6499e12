"""What examples there are and how large each of them will be, before any media are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from crab_jax.batch import FeatureSizes
from crab_jax.layout import Layout
from crab_jax.tasks import TaskSpec, Wording
from crab_jax.tasks.clips import Ask
from crab_jax.tokens import Tokenizer
from data_pipelines.examples import ExampleSize, Stored, measure
from data_pipelines.records import Entry, Shards

_VERSION = 1  # of the cached files; counts up when sizes of examples change
_log = logging.getLogger(__name__)


class StreamError(ValueError):
    """A stream that cannot be: settings that do not fit the data, or too much of the data cannot be used."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of one data set.

    Attributes:
        shards: its records.
        spec: its task.
    """

    shards: Shards
    spec: TaskSpec

    @property
    def name(self) -> str:
        """Such as `avqa/train`."""
        return f"{self.shards.task}/{self.shards.split}"


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An example that no stream of these settings will have."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Table:
    """The examples of one source, in the order of its records.

    Attributes:
        name: of the source.
        record: int32 [n], number of the record.
        ask: int32 [n], number of the ask in its record.
        unit: int32 [n], ascending; examples with the same number are alternatives (`Ask.group`).
        size: int32 [n 5], columns as in `ExampleSize`.
        left_out: what cannot become an example.
        digest: changes when the records or the sizes do.
    """

    name: str
    record: np.ndarray
    ask: np.ndarray
    unit: np.ndarray
    size: np.ndarray
    left_out: tuple[LeftOut, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.record)

    def fitting(self, layout: Layout, *, index: Callable[[], Iterable[Entry]]) -> Table:
        """The examples that fit into an empty row; the others join `left_out`, each with the number that is too large.

        Args:
            layout: of the rows.
            index: gives the index of the shards, where the examples have their names; not called if all of them fit.
        """
        capacity = np.array([getattr(layout, field) for field in ExampleSize._fields])
        excess = self.size > capacity
        fits = ~excess.any(axis=1)
        if fits.all():
            return self
        numbers = {(int(self.record[i]), int(self.ask[i])): i for i in np.flatnonzero(~fits)}
        too_large = []
        for entry in index():
            for n, ask in enumerate(entry.asks):
                if (i := numbers.get((entry.index, n))) is not None:
                    what = [
                        f"{self.size[i, c]} {field.replace('_', ' ')}, the layout holds {capacity[c]}"
                        for c, field in enumerate(ExampleSize._fields)
                        if excess[i, c]
                    ]
                    too_large.append(LeftOut(f"{self.name}, {ask.id}", "; ".join(what)))
        kept = {f: getattr(self, f)[fits] for f in ("record", "ask", "unit", "size")}
        return dataclasses.replace(self, **kept, left_out=(*self.left_out, *too_large))


def read_table(
    source: Source,
    *,
    wording: Wording,
    tokenizer: Tokenizer,
    sizes: FeatureSizes,
    cache: pathlib.Path | None,
) -> Table:
    """Measures every example of a source; tokenises every text once, then remembers the lengths.

    Args:
        source: the shards and their task.
        wording: how the task asks.
        tokenizer: the model's.
        sizes: of the features.
        cache: folder of remembered tables; None remembers nothing. One that cannot be written is no error.

    Raises:
        StreamError: pictures of another size than the model's.
        data_pipelines.records.ShardError: the index is damaged.
    """
    shards = source.shards
    if shards.size != sizes.image_size:
        raise StreamError(
            f"{shards.folder}: pictures of {shards.size} pixels per side, the model looks at {sizes.image_size}; build "
            f"the data again with `crab data build {shards.task} --size {sizes.image_size}`"
        )
    key = hashlib.sha256(shards.index_path.read_bytes())
    told = [_VERSION, source.name, wording.value, tokenizer_digest(tokenizer), dataclasses.asdict(sizes)]
    told += [source.spec.instruction[wording], repr(source.spec.media[wording]), source.spec.target_end.value]
    told += [] if source.spec.reasoning else ["without reasoning"]
    key.update(json.dumps(told).encode())
    digest = key.hexdigest()[:32]
    file = None if cache is None else cache / f"{digest}.npz"
    if file is not None and (known := _load(file, source.name, digest)) is not None:
        return known
    table = _measure_all(source, wording=wording, tokenizer=tokenizer, sizes=sizes, digest=digest)
    if file is not None:
        _save(file, table)
    return table


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Changes when the pieces of a tokenizer do."""
    return hashlib.sha256(tokenizer.model).hexdigest()[:16]


def default_cache() -> pathlib.Path:
    """`$XDG_CACHE_HOME/crab_jax/lengths`, usually below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "crab_jax" / "lengths"


def _measure_all(source: Source, *, wording: Wording, tokenizer: Tokenizer, sizes: FeatureSizes, digest: str) -> Table:
    rows: list[tuple[int, int, int]] = []
    measured: list[ExampleSize] = []
    left_out: list[LeftOut] = []
    units = 0
    for entry in source.shards.index():
        groups: dict[str, int] = {}
        for number in sorted(range(len(entry.asks)), key=lambda i: _first_of_group(entry.asks, i)):
            ask = entry.asks[number]
            try:
                measured.append(_measure_one(source.spec, entry, ask, wording, tokenizer, sizes))
            except ValueError as error:  # MediaError, RowError, UserTextError …
                left_out.append(LeftOut(f"{source.name}, {ask.id}", str(error)))
                continue
            if not ask.group or ask.group not in groups:
                groups[ask.group], units = units, units + 1
            rows.append((entry.index, number, groups[ask.group]))
    record, ask, unit = np.array(rows, np.int32).reshape(-1, 3).T
    size = np.array(measured, np.int32).reshape(-1, len(ExampleSize._fields))
    return Table(source.name, record, ask, unit, size, tuple(left_out), digest)


def _measure_one(
    spec: TaskSpec, entry: Entry, ask: Ask, wording: Wording, tokenizer: Tokenizer, sizes: FeatureSizes
) -> ExampleSize:
    where = f"clip {entry.clip_id}"
    for what, index, count in (("picture", ask.picture, entry.frames), ("mask", ask.mask, entry.masks)):
        if index is not None and not 0 <= index < count:
            raise ValueError(f"{where}: asks about {what} {index}, there are {count}")
    return measure(
        spec,
        wording,
        ask.row,
        stored=Stored(pictures=entry.frames, samples=entry.samples),
        picture=ask.picture,
        has_mask=ask.mask is not None,
        tokenizer=tokenizer,
        sizes=sizes,
        where=where,
    )


def _first_of_group(asks: Sequence[Ask], number: int) -> int:
    """Asks of a group stand together, where the first of them stands."""
    group = asks[number].group
    return number if not group else next(i for i, ask in enumerate(asks) if ask.group == group)


def _load(file: pathlib.Path, name: str, digest: str) -> Table | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            left_out = tuple(LeftOut(*pair) for pair in json.loads(str(stored["left_out"])))
            return Table(name, *(stored[f] for f in ("record", "ask", "unit", "size")), left_out, digest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: remembered lengths that cannot be read (%s); they are computed again", file, error)
        return None


def _save(file: pathlib.Path, table: Table) -> None:
    left_out = json.dumps([dataclasses.astuple(x) for x in table.left_out])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            np.savez(
                part, record=table.record, ask=table.ask, unit=table.unit, size=table.size, left_out=np.array(left_out)
            )
        os.replace(part.name, file)
    except OSError as error:
        _log.warning("%s: lengths cannot be remembered (%s); they will be computed again next time", file, error)
