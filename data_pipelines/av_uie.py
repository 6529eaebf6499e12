"""The data sets of AV-UIE as TensorFlow Datasets: a builder that writes ArrayRecord and never imports TensorFlow.

TFDS's own ways of writing do not fit: `GeneratorBasedBuilder` encodes in one process, starts from the beginning after
an interruption and, from a gigabyte on, sorts with TensorFlow's file functions; `ShardBasedBuilder` holds a shard in
memory. So the shards are encoded beside the data set (`data_pipelines.stage`), and this builder gives them their
names, writes TFDS's metadata and publishes everything at once, by renaming one folder.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.records import SCHEMA


def features(size: int) -> tfds.features.FeaturesDict:
    """What `Record.to_features` gives; pictures and masks have `size` pixels per side."""
    picture = tfds.features.Image(shape=(size, size, 3))
    mask = tfds.features.Image(shape=(size, size, 1), encoding_format="png")
    return tfds.features.FeaturesDict(
        {
            "task": tfds.features.Text(),
            "split": tfds.features.Text(),
            "clip_id": tfds.features.Text(),
            "frames": tfds.features.Sequence(picture),
            "audio": tfds.features.Scalar(dtype=np.object_, doc="FLAC, mono, 16 kHz"),
            "audio_exponent": tfds.features.Scalar(dtype=np.int64, doc="the wave is audio · 2^exponent"),
            "masks": tfds.features.Sequence(mask),
            "semantic": tfds.features.Scalar(dtype=np.bool_, doc="masks hold class ids"),
            "asks": tfds.features.Text(doc="JSON: the examples about this clip"),
            "provenance": tfds.features.Text(doc="JSON: where the media came from"),
        }
    )


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Looks for no published numbers of this data set: there are none, and an empty folder would stay behind."""


class AvUie(tfds.core.ShardBasedBuilder):
    """One task's data set.

    Args:
        task: key of `TASKS` or `PRETRAINING`; also the name of the data set.
        about: one line for people.
        size: pixels per side.
        data_dir: the data set becomes `<data_dir>/<task>/<schema version>`.
        shards: split → finished shards in order, each with the number of its records.
        complete: adds the project's own files: gets the folder, and the names of the shards with their records.
    """

    VERSION = tfds.core.Version(SCHEMA)

    def __init__(
        self,
        *,
        task: str,
        about: str,
        size: int,
        data_dir: pathlib.Path,
        shards: Mapping[str, Sequence[tuple[pathlib.Path, int]]],
        complete: Callable[[pathlib.Path, dict[str, list[tuple[str, int]]]], None],
    ):
        self.name = task
        self._about, self._size, self._shards, self._complete = about, size, shards, complete
        super().__init__(data_dir=data_dir, file_format=tfds.core.FileFormat.ARRAY_RECORD)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(builder=self, description=self._about, features=features(self._size))

    def _shard_iterators_per_split(self, dl_manager):
        raise NotImplementedError("shards are encoded by `data_pipelines.stage`")

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        infos, named = [], {}
        for split, shards in self._shards.items():
            template = self._get_filename_template(split_name=split)
            named[split] = []
            for k, (path, records) in enumerate(shards):
                final = pathlib.Path(template.sharded_filepath(shard_index=k, num_shards=len(shards)))
                _link(path, final)
                named[split].append((final.name, records))
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[records for _, records in shards],
                    num_bytes=sum(path.stat().st_size for path, _ in shards),
                    filename_template=template,
                )
            )
        self.info.set_splits(tfds.core.SplitDict(infos))
        self._complete(pathlib.Path(self.data_dir), named)

    # TFDS prints both to standard output, which belongs to results.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """A second name for a file, so that an interruption here costs nothing; a copy where there are no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
