"""A training run that does nothing but read: prints each state and a digest of the batch that follows it.

python tests/stream_run.py SHARDS WORKERS [PROCESS PROCESSES]
"""

import dataclasses
import hashlib
import json
import pathlib
import sys

from crab_jax.batch import FeatureSizes
from crab_jax.layout import Layout
from crab_jax.tasks import TASKS
from crab_jax.tokens import Tokenizer
from data_pipelines.records import open_shards
from data_pipelines.stream.loader import Stream, StreamSettings
from data_pipelines.stream.tables import Source

SIZE = 16
SIZES = FeatureSizes(image_size=SIZE, frame_tokens=2, window_tokens=2, patch=16)
SETTINGS = StreamSettings(
    layout=Layout(tokens=320, frames=12, windows=12, patch_rows=12, masks=4), rows=4, seed=5, block=24
)
SHORT = dataclasses.replace(SETTINGS, rows=2)  # what one process reads; several need a row each


def open_stream(out: pathlib.Path, tasks=("s4", "avss", "ave"), *, settings=SETTINGS, **kwargs) -> Stream:
    sources = [Source(open_shards(out, task, "train"), TASKS[task]) for task in tasks]
    return Stream(sources, settings, tokenizer=Tokenizer.tiny(), sizes=SIZES, cache=False, **kwargs)


def digest(batch) -> str:
    """Of every bit of a batch."""
    sha = hashlib.sha256()
    for x in batch:
        sha.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    return sha.hexdigest()


def main() -> None:
    out, workers = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    process, processes = map(int, sys.argv[3:] or (0, 1))
    settings = SHORT if processes == 1 else SETTINGS
    with open_stream(out, settings=settings, workers=workers, process=process, processes=processes) as stream:
        while True:
            state = stream.get_state()
            batch, _ = next(stream)
            sys.stdout.write(json.dumps([state, digest(batch)]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
