"""Every example of a split once, in the order of its records, without packing: what evaluation asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from crab_jax.batch import Example, FeatureSizes
from crab_jax.tasks import Wording
from crab_jax.tasks.clips import Ask
from crab_jax.tokens import Tokenizer
from data_pipelines.stream.rows import read_example
from data_pipelines.stream.tables import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One example of a split.

    Attributes:
        number: in the split, the same for any number of processes.
        name: such as `avqa/test, 00000042`.
        ask: what is asked; None if the record could not be read.
        example: prompt and media for `crab_jax.evaluate.engine`, without the target; None if it could not be made.
        mask: the true mask, uint8 [S S], or None.
        reason: why there is no example; empty if there is.
    """

    number: int
    name: str
    ask: Ask | None
    example: Example | None
    mask: np.ndarray | None
    reason: str = ""


def evaluation_items(
    source: Source,
    *,
    wording: Wording,
    tokenizer: Tokenizer,
    sizes: FeatureSizes,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Item]:
    """All examples of a split, one after the other; what cannot be read comes as an item with a reason.

    A process gets every `processes`-th record, so that each record is read once. Buckets of shapes are the engine's.

    Args:
        source: the split.
        wording, tokenizer, sizes: as in `build_example`.
        process, processes: which part.

    Raises:
        data_pipelines.records.ShardError: the index is damaged.
    """
    if not 0 <= process < processes:
        raise ValueError(f"expected a process below {processes}, found {process}")
    number = 0
    for entry in source.shards.index():
        numbers = range(number, number + len(entry.asks))
        number += len(entry.asks)
        if entry.index % processes != process:
            continue
        try:
            record = source.shards[entry.index]
        except (ValueError, OSError) as error:
            for n, ask in zip(numbers, entry.asks, strict=True):
                name = f"{source.name}, {ask.id}"
                yield Item(number=n, name=name, ask=ask, example=None, mask=None, reason=str(error))
            continue
        for n, ask in zip(numbers, record.asks):
            name = f"{source.name}, {ask.id}"
            try:
                example = read_example(
                    record, ask, source.spec, wording=wording, tokenizer=tokenizer, sizes=sizes, with_target=False,
                    name=name,
                )  # fmt: skip
                mask = None if ask.mask is None else record.mask(ask.mask)
            except (ValueError, IndexError, OSError) as error:
                yield Item(number=n, name=name, ask=ask, example=None, mask=None, reason=str(error))
            else:
                yield Item(number=n, name=name, ask=ask, example=dataclasses.replace(example, mask=None), mask=mask)
