"""One clip to be made, and what makes its files."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.image import colors_from_labels
from data_pipelines.world import files
from data_pipelines.world.casting import reserved
from data_pipelines.world.sprites import SpriteStore
from data_pipelines.world.stage import Scene, Shot, Stage

RATE_HZ = 16000  # what every reader resamples to


@dataclasses.dataclass(frozen=True)
class Order:
    """Clip number `index` of one split of one task.

    Attributes:
        root: the folder of all data sets.
        seed: of the whole world; with task, split and index it decides everything about the clip.
        size: width and height of pictures, both even.
        fps: pictures per second of ten-second videos.
    """

    root: pathlib.Path
    task: str
    split: str
    index: int
    seed: int
    size: tuple[int, int]
    fps: int

    @property
    def name(self) -> str:
        """Unique among the clips of a task."""
        return f"{self.split.replace('_', '')}{self.index:05d}"

    def rng(self) -> np.random.Generator:
        """A fresh generator, of this clip alone."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.task} {self.split}".encode()), self.index])


class Studio:
    """Renders scenes into files; one per process, because it keeps sprites."""

    def __init__(self):
        self._sprites = SpriteStore()

    def stage(self, scene: Scene) -> Stage:
        """The scene, ready to be rendered."""
        return Stage(scene, sprites=self._sprites)

    def video(self, stage: Stage, video: pathlib.Path, audio: pathlib.Path | None) -> pathlib.Path | None:
        """An MP4 with stereo sound, and the sound alone as a mono MP3.

        Args:
            audio: where the sound goes; None: the video is silent.

        Returns:
            Where the sound is: a WAV beside it if there is no MP3 encoder.
        """
        scene = stage.scene
        frames = np.stack([stage.shot(k / scene.fps).frame for k in range(scene.frame_count)])
        wave = None if audio is None else stage.sound(rate_hz=RATE_HZ)
        video.parent.mkdir(parents=True, exist_ok=True)
        files.write_video(video, frames, fps=scene.fps, wave=wave, rate_hz=RATE_HZ, bit_rate=64_000)
        if audio is None or wave is None:
            return None
        audio.parent.mkdir(parents=True, exist_ok=True)
        return files.write_mp3(audio, wave.mean(1, keepdims=True), rate_hz=RATE_HZ, bit_rate=64_000)

    def stills(self, stage: Stage, folder: pathlib.Path, shots: Sequence[Shot]):
        """`audio.wav`, and `frames/{i}.jpg` for every shot."""
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        files.write_wav(folder / "audio.wav", stage.sound(rate_hz=RATE_HZ), rate_hz=RATE_HZ)
        for second, shot in enumerate(shots):
            files.write_jpeg(folder / "frames" / f"{second}.jpg", shot.frame)


def binary(shot: Shot, who: list[int]) -> np.ndarray:
    """The pixels of some performers: uint8 [H W] of 0 and 255."""
    return shot.masks[who].any(0).astype(np.uint8) * 255 if who else np.zeros(shot.masks.shape[1:], np.uint8)


def coloured(shot: Shot, labels: dict[int, int]) -> np.ndarray:
    """Performers in the colours of their classes: uint8 [H W 3]."""
    classes = np.zeros(shot.masks.shape[1:], np.uint8)
    for who, label in labels.items():
        classes[shot.masks[who]] = label
    return colors_from_labels(classes)


def sounding(scene: Scene, time_s: float) -> list[int]:
    """Who is heard at that moment."""
    return [k for k, p in enumerate(scene.performers) if any(a <= time_s < b for a, b in p.heard)]


def visible(scene: Scene, time_s: float) -> list[int]:
    """Who is on the stage at that moment."""
    return [k for k, p in enumerate(scene.performers) if any(a <= time_s < b for a, b in p.seen)]


def truth(scene: Scene, **more: Any) -> dict[str, Any]:
    """All that is known about a scene, in plain JSON types."""
    performers = [
        {
            "kind": p.kind,
            "place": p.place,
            "depth": p.depth,
            "size": p.size,
            "seen": [list(span) for span in p.seen],
            "heard": [list(span) for span in p.heard],
            "moves": [list(span) for span in (p.heard if p.moves is None else p.moves)],
            "loudness": p.loudness,
        }
        for p in scene.performers
    ]
    scenery = [prop.name for prop in scene.scenery]
    return {
        "setting": scene.setting,
        "scenery": scenery,
        "seed": scene.seed,
        "novel": reserved(scene.performers),
        "performers": performers,
        **more,
    }
