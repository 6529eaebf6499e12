"""A few media and clips of them, to build data sets of, and what a build has written."""

import dataclasses
import json

import numpy as np
from PIL import Image

from crab_jax.tasks import ALL, Row
from crab_jax.tasks.clips import Ask, Clip
from data_pipelines.build import Options
from data_pipelines.decode import PALETTE
from data_pipelines.encoding import PictureFormat
from tests.media_files import tone, write_sound, write_video

EXACT = Options(jobs=0, size=32, pictures=PictureFormat.PNG)


def spec_of(task, clips, *, splits=("train",)):
    """A task whose annotations are what `clips(root, split)` says."""
    return dataclasses.replace(ALL[task], clips=clips, splits=splits, layout="ANNOTATIONS/HERE.json")


def ask(name, **fields):
    return Ask(id=name, row=Row(label="dog", second=0), **fields)


def write_media(root):
    """Two videos, sounds, pictures and masks. Sound is at 16 kHz, because importing the resampler takes seconds."""
    for k in range(2):
        write_video(root / f"{k}.mp4", frames=12 + k, sound=tone(2, 16000, hz=300 + 100 * k), sound_rate=16000)
    write_video(root / "short.mp4", frames=3, sound=tone(2, 16000), sound_rate=16000)
    write_sound(root / "0.wav", tone(2, 16000, channels=2), 16000, subtype="PCM_16")
    random = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / f"{k}.png")
        Image.fromarray(255 * random.integers(0, 2, (40, 50), dtype=np.uint8)).save(root / f"mask{k}.png")
    Image.fromarray(PALETTE[random.integers(0, 71, (40, 50))]).save(root / "classes.png")
    return root


def ave_clips(count, *, vids=("0", "1")):
    def clips(root, split):
        for i in range(count):
            vid = vids[i % len(vids)]
            source = f"{root / 'a.json'}, entry {i}"
            video = root / f"{vid}.mp4"
            asks = (ask(f"{split} {i}"), ask(f"{split} {i} again"))
            yield Clip(task="ave", split=split, id=f"c{i}", video=video, frames=10, asks=asks, source=source)

    return clips


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rejects(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
