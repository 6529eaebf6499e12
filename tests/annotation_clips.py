"""What annotations give, split by split, and the file of each data set that a test may spoil."""

from __future__ import annotations

import pathlib

from crab_jax.tasks import ALL
from crab_jax.tasks.clips import Clip, Reject
from tests import annotation_trees as trees

JSON = {
    ("avqa", "train"): ("data/music_avqa_data/valid_train_samples.json", trees.AVQA),
    ("ave", "test"): ("data/ave_data/test_samples.json", trees.AVE),
    ("avvp", "train"): ("data/avvp_data/train_samples.json", trees.AVVP),
    ("avvp", "test"): ("data/avvp_data/test_samples.json", trees.AVVP_TEST),
    ("arig", "train"): ("AVS/v1s_grounding_samples.json", trees.ARIG),
    ("s4", "train"): ("AVS/s4_samples.json", trees.AVS),
    ("ms3", "train"): ("AVS/ms3_samples.json", trees.AVS),
    ("avss", "train"): ("AVS/avss_samples.json", trees.AVS),
    ("avcap", "test"): ("valor/val_samples.json", trees.AVCAP[:1]),
    ("pretrain-image", "train"): ("video-llava/train_json/llava_image_.json", trees.LLAVA),
    ("pretrain-video", "train"): ("video-llava/train_json/valid_valley_.json", trees.VALLEY),
    ("pretrain-audio", "val"): ("AudioCaps/val.json", trees.AUDIOCAPS),
    ("pretrain-seg", "train"): ("LVIS/train_samples.json", trees.LVIS),
}


def read(root: pathlib.Path, name: str, split: str) -> tuple[list[Clip], list[Reject]]:
    found = list(ALL[name].clips(root, split))
    for item in found:
        assert (item.task, item.split) == (name, split)
    return [c for c in found if isinstance(c, Clip)], [r for r in found if isinstance(r, Reject)]


def good(root: pathlib.Path, name: str, split: str) -> list[Clip]:
    clips, rejects = read(root, name, split)
    assert not rejects
    return clips


def files(root: pathlib.Path, clip: Clip) -> list[str]:
    paths = (clip.video, *clip.pictures, clip.audio, *clip.masks)
    return [str(p.relative_to(root)) for p in paths if p is not None]
