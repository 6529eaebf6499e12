"""Row numbers → arrays: reads records, decodes, tokenises and lays out. This is what the workers do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from crab_jax.batch import Batch, Example, FeatureSizes, lay_out, pack
from crab_jax.layout import Layout
from crab_jax.tasks import TaskSpec, Wording
from crab_jax.tasks.clips import Ask
from crab_jax.tokens import Tokenizer
from data_pipelines.examples import ExampleSize, build_example, chosen_pictures, heard
from data_pipelines.records import Record
from data_pipelines.stream.packing import PACKED, Plan
from data_pipelines.stream.tables import Source, Table


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An example that could not be read; its place in the row stayed empty."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Info:
    """What is in a batch.

    Attributes:
        number: of the batch, counted from the beginning of the stream.
        names: of the examples of each row, such as `avqa/train, 00000042`; the n-th of them is segment n + 1.
        fill: resource → share of this process' rows that is used: tokens, frames, windows, masks (those that the layout
            has).
        skipped: what is missing in it.
        cursor: block in which its first row over all processes stands, and the first row of this block (`Plan.cursor`).
    """

    number: int
    names: tuple[tuple[str, ...], ...]
    fill: Mapping[str, float]
    skipped: tuple[Skipped, ...]
    cursor: tuple[int, int]

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(map(len, self.names))


def read_example(
    record: Record, ask: Ask, spec: TaskSpec, *, wording: Wording, tokenizer: Tokenizer, sizes: FeatureSizes,
    with_target: bool, name: str,
) -> Example:  # fmt: skip
    """The example that an ask makes of its record: decodes what the task looks at and listens to, and no more.

    Args:
        record: the clip.
        ask: one of its asks.
        spec: the task.
        wording, tokenizer, sizes, with_target, name: as in `build_example`.

    Raises:
        data_pipelines.records.CorruptRecord: media that cannot be decoded.
        ValueError: the errors of `build_example`.
    """
    media = spec.media[wording]
    where = f"clip {record.clip_id}"
    video = [record.picture(i) for i in chosen_pictures(media, len(record.frames))]
    return build_example(
        spec,
        wording,
        ask.row,
        name=name,
        tokenizer=tokenizer,
        sizes=sizes,
        with_target=with_target,
        video=np.stack(video) if video else None,
        image=record.picture(ask.picture) if media.image and ask.picture is not None else None,
        wave=record.wave(lambda n: heard(media, ask.row, n, where=where)) if media.audio is not None else None,
        mask=record.mask(ask.mask) if media.image and ask.mask is not None else None,
        where=where,
    )


class RowReader:
    """One process' part of each global batch."""

    def __init__(
        self,
        sources: Sequence[Source],
        tables: Sequence[Table],
        plan: Plan,
        *,
        layout: Layout,
        wording: Wording,
        tokenizer: Tokenizer,
        sizes: FeatureSizes,
        rows: int,
        process: int,
        processes: int,
        packed: bool,
    ):
        """Keeps what it needs; opens and reads nothing.

        Args:
            sources: where the examples are.
            tables: one per source.
            plan: the rows.
            layout: their shape.
            wording, tokenizer, sizes: as in `build_example`.
            rows: of a global batch; a multiple of `processes`.
            process: number of this process; it gets rows `process · rows / processes` and on.
            processes: how many there are.
            packed: whether rows hold several examples from column 0, or one, padded on the left.
        """
        self._shards, self._specs = [s.shards for s in sources], [s.spec for s in sources]
        self._names = [s.name for s in sources]
        self._ends = np.cumsum([len(t) for t in tables])
        self._record = np.concatenate([t.record for t in tables])
        self._ask = np.concatenate([t.ask for t in tables])
        self._size = np.concatenate([t.size for t in tables])
        self.plan, self.layout, self.rows, self._packed = plan, layout, rows, packed
        self._share = rows // processes
        self._first = process * self._share
        self._wording, self._tokenizer, self._sizes = wording, tokenizer, sizes

    def batch(self, number: int) -> tuple[Batch, Info] | None:
        """This process' rows of a global batch; None behind the last one.

        Rows behind the last one, and rows of which nothing could be read, are padding.
        """
        start = number * self.rows
        if self.plan.row(start) is None:
            return None
        rows: list[list[Example]] = []
        skipped: list[Skipped] = []
        for k in range(start + self._first, start + self._first + self._share):
            members = self.plan.row(k)
            found = [self._read(i) for i in (() if members is None else members)]
            rows.append([x for x in found if isinstance(x, Example)])
            skipped += [x for x in found if isinstance(x, Skipped)]
        batch = self._lay_out(rows)
        names = tuple(tuple(x.name for x in row) for row in rows)
        return batch, Info(number, names, fill(batch), tuple(skipped), self.plan.cursor(start))

    def _lay_out(self, rows: list[list[Example]]) -> Batch:
        arguments = {"layout": self.layout, "ids": self._tokenizer.token_ids, **dataclasses.asdict(self._sizes)}
        if self._packed:
            return pack(rows, **arguments)
        blank = Example(name="padding", prompt=())
        return lay_out([row[0] if row else blank for row in rows], **arguments)

    def _read(self, number: int) -> Example | Skipped:
        at = int(np.searchsorted(self._ends, number, side="right"))
        index, ask_index = int(self._record[number]), int(self._ask[number])
        name = f"{self._names[at]}, record {index}, question {ask_index}"
        try:
            record = self._shards[at][index]
            if ask_index >= len(record.asks):
                raise ValueError(f"the index promises question {ask_index}, the record has {len(record.asks)}")
            ask = record.asks[ask_index]
            name = f"{self._names[at]}, {ask.id}"
            example = read_example(
                record, ask, self._specs[at], wording=self._wording, tokenizer=self._tokenizer, sizes=self._sizes,
                with_target=True, name=name,
            )  # fmt: skip
            planned = ExampleSize(*self._size[number].tolist())
            if (size := size_of(example, self._sizes)) != planned:
                raise ValueError(f"the index promises {planned}, found {size}")
        except (ValueError, OSError) as error:  # CorruptRecord, MediaError, RowError …; a disk that fails
            return Skipped(name, str(error))
        return example


def size_of(example: Example, sizes: FeatureSizes) -> ExampleSize:
    """What an example really takes."""
    windows, length = (0, 0) if example.fbank is None else example.fbank.shape[:2]
    return ExampleSize(
        tokens=len(example.prompt) + len(example.target),
        frames=0 if example.frames is None else len(example.frames),
        windows=windows,
        masks=int(example.mask is not None),
        patch_rows=length // sizes.patch,
    )


def fill(batch: Batch) -> dict[str, float]:
    """Share of a batch that is used, per resource that the layout has."""
    segments = (batch.segment, batch.frame_segment, batch.window_segment, batch.mask_segment)
    return {name: float((s > 0).mean()) for name, s in zip(PACKED, segments, strict=True) if s.size}
