"""Where the annotations of every data set lie on disk, and how they are written; one entry per task."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data_pipelines.world import concerts, events, expressions, pretraining, stills
from data_pipelines.world.orders import Order, Studio

Entry = dict[str, Any]
Splits = Mapping[str, list[Entry]]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set of the generated world.

    Attributes:
        make: renders one clip and returns its entry: `rows` of the annotation file and the `truth`.
        annotate: root, entries per split → writes the annotation files.
        splits: in this order; the first is "train".
    """

    make: Callable[[Order, Studio], Entry]
    annotate: Callable[[pathlib.Path, Splits], None]
    splits: tuple[str, ...] = ("train", "test")


def _rows(entries: Iterable[Entry]) -> list[Any]:
    return [row for entry in entries for row in entry["rows"]]


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_json(path: pathlib.Path, rows: list[Any]) -> None:
    """A JSON list, one element per line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f"[\n{lines}\n]\n" if rows else "[]\n")


def _per_split(names: Mapping[str, str]) -> Callable[[pathlib.Path, Splits], None]:
    """One JSON file per split."""

    def annotate(root: pathlib.Path, splits: Splits) -> None:
        for split, name in names.items():
            write_json(root / name, _rows(splits.get(split, ())))

    return annotate


def _together(name: str) -> Callable[[pathlib.Path, Splits], None]:
    """One JSON file for all splits; each row names its own."""

    def annotate(root: pathlib.Path, splits: Splits) -> None:
        write_json(root / name, [row for entries in splits.values() for row in _rows(entries)])

    return annotate


def _llp(root: pathlib.Path, splits: Splits) -> None:
    """The sample files, and the evaluation tables of the test split: one tab-separated line per event."""
    names = {"train": "data/avvp_data/train_samples.json", "test": "data/avvp_data/test_samples.json"}
    _per_split(names)(root, splits)
    for sense in ("audio", "visual"):
        lines = ["filename\tonset\toffset\tevent_labels"]
        for entry in splits.get("test", ()):
            for name, spans in entry["events"][sense]:
                lines += [f"{entry['rows'][0]['vid']}\t{start}\t{end}\t{name}" for start, end in spans]
        write_text(root / f"data/avvp_data/AVVP_eval_{sense}.csv", "\n".join(lines) + "\n")


def _ref_avs(root: pathlib.Path, splits: Splits) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("vid", "uid", "split", "fid", "exp"))
    for entries in splits.values():
        writer.writerows(_rows(entries))
    write_text(root / "ref-avs/REFAVS/metadata.csv", table.getvalue())


_THREE = ("train", "val", "test")

DATA_SETS: Mapping[str, DataSet] = {
    "avqa": DataSet(
        concerts.music_avqa,
        _per_split(
            {
                "train": "data/music_avqa_data/valid_train_samples.json",
                "test": "data/music_avqa_data/test_samples.json",
            }
        ),
    ),
    "ave": DataSet(
        events.ave,
        _per_split({"train": "data/ave_data/valid_train_samples.json", "test": "data/ave_data/test_samples.json"}),
    ),
    "avvp": DataSet(events.llp, _llp),
    "ms3": DataSet(stills.ms3, _together("AVS/ms3_samples.json"), _THREE),
    "s4": DataSet(stills.s4, _together("AVS/s4_samples.json"), _THREE),
    "avss": DataSet(stills.avss, _together("AVS/avss_samples.json"), _THREE),
    "ref-avs": DataSet(expressions.ref_avs, _ref_avs, ("train", "test_s", "test_u", "test_n")),
    "arig": DataSet(stills.arig, _together("AVS/v1s_grounding_samples.json"), _THREE),
    "avcap": DataSet(events.valor, _per_split({"train": "valor/train_samples.json", "test": "valor/val_samples.json"})),
    "pretrain-image": DataSet(
        pretraining.llava, _per_split({"train": "video-llava/train_json/llava_image_.json"}), ("train",)
    ),
    "pretrain-video": DataSet(
        pretraining.valley, _per_split({"train": "video-llava/train_json/valid_valley_.json"}), ("train",)
    ),
    "pretrain-audio": DataSet(
        pretraining.audiocaps, _per_split({split: f"AudioCaps/{split}.json" for split in _THREE}), _THREE
    ),
    "pretrain-seg": DataSet(pretraining.lvis, _per_split({"train": "LVIS/train_samples.json"}), ("train",)),
}
