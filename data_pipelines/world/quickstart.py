"""Media for the quick start: one sample for each of the nine tasks, rendered here, so nothing has to be downloaded."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.image import colors_from_labels
from data_pipelines.world import files
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.stage import Clip, Performer, Scene, Stage

VIDEO_RATE_HZ = 44100

Fields = dict[str, Any]


def write_quickstart_media(folder: pathlib.Path, *, seed: int = 0) -> pathlib.Path:
    """Renders one sample for each of the nine tasks.

    Args:
        folder: is made if it is not there; files of the same names are replaced.
        seed: another seed gives other performers, places, music and colours.

    Returns:
        The path of `samples.json`, in the quick-start format: paths relative to it. Beside it lies `truth.json`, which
        says for each sample, in the same order, what was really on the stage.

    Source: specification 9.4, 9.5. The captioning sample has no `audio_path`: its sound is the video's own track.
    """
    folder = pathlib.Path(folder)
    rng = np.random.default_rng(seed)
    jobs = list(zip(_SAMPLES, _deal(rng), rng.integers(1 << 31, size=len(_SAMPLES)).tolist()))
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:  # the encoders and NumPy let each other run
        written = list(pool.map(lambda job: _write(folder, *job), jobs))
    _write_json(folder / "samples.json", [fields for fields, _ in written])
    _write_json(folder / "truth.json", [truth for _, truth in written])
    return folder / "samples.json"


@dataclasses.dataclass(frozen=True)
class _Sample:
    """How the sample of one task comes about.

    Attributes:
        task: its name.
        write: puts the files of a scene into a folder; returns the sample's fields (files as `Path`) and the truth.
        cast: how many performers.
        vocabulary: performers need a name in it.
    """

    task: str
    write: Callable[[pathlib.Path, Sequence[str], np.random.Generator], tuple[Fields, Fields]]
    cast: int
    vocabulary: str = "avss"


def _deal(rng: np.random.Generator) -> list[list[str]]:
    """Performers for each sample; whoever has not been on the stage yet comes first."""
    shown, casts = dict.fromkeys(KINDS, 0), []
    for sample in _SAMPLES:
        known = [kind.name for kind in KINDS.values() if sample.vocabulary == "avss" or sample.vocabulary in kind.names]
        shuffled = [known[k] for k in rng.permutation(len(known))]
        casts.append(sorted(shuffled, key=shown.__getitem__)[: sample.cast])
        for name in casts[-1]:
            shown[name] += 1
    return casts


def _write(folder: pathlib.Path, sample: _Sample, cast: Sequence[str], seed: int) -> tuple[Fields, Fields]:
    place = folder / sample.task
    place.mkdir(parents=True, exist_ok=True)
    fields, truth = sample.write(place, cast, np.random.default_rng(seed))
    fields = {k: f"{sample.task}/{v.name}" if isinstance(v, pathlib.Path) else v for k, v in fields.items()}
    return {"task": sample.task, **fields}, {"task": sample.task, **truth}


# ------------------------------------------------------------------------------------------------ the nine samples


def _avqa(folder, cast, rng):
    left, middle, right = cast
    scene = _scene(
        rng,
        Performer(left, 0.0, 0.35, heard=((0, 4.5), (7, 10))),
        Performer(middle, 0.5, 0.80, heard=((3, 10),)),
        Performer(right, 1.0, 0.25, heard=()),
    )
    fields = _video(folder, scene, separate_sound=True)
    fields["question"] = "How many of the instruments in the video are sounding?"
    return fields, {"answer": "two", **_events(scene, "avqa")}


def _ave(folder, cast, rng):
    start_s = int(rng.integers(1, 4))
    end_s = start_s + 5
    scene = _scene(rng, Performer(cast[0], float(rng.uniform(0.3, 0.7)), 0.75, heard=((start_s, end_s),)))
    truth = {"event": KINDS[cast[0]].called("ave"), "start_s": start_s, "end_s": end_s}
    return _video(folder, scene, separate_sound=True), truth


def _avvp(folder, cast, rng):
    scene = _scene(
        rng,
        Performer(cast[0], 0.18, 0.60, heard=((1, 6),)),
        Performer(cast[1], 0.85, 0.45, seen=((5, 10),), heard=((3, 9),)),  # is heard before it is seen
    )
    return _video(folder, scene, separate_sound=True), _events(scene, "avvp")


def _arig(folder, cast, rng):
    left, right = rng.permutation([0.12, 0.88]).tolist()
    stage = _still(rng, Performer(cast[0], left, 0.60), Performer(cast[1], right, 0.50, heard=()), duration_s=5)
    second = int(rng.integers(5))
    fields, shot = _picture_and_sound(folder, stage, second, rate_hz=16000)
    return fields, {"object": cast[0], "box": shot.boxes(224)[0]}


def _s4(folder, cast, rng):
    stage = _still(rng, Performer(cast[0], float(rng.uniform(0.25, 0.75)), 0.85), duration_s=5)
    return _segmented(folder, stage, int(rng.integers(5)), rate_hz=16000)


def _ms3(folder, cast, rng):
    left, middle, right = cast
    performers = Performer(left, 0.0, 0.55), Performer(middle, 0.5, 0.25, heard=()), Performer(right, 1.0, 0.60)
    return _segmented(folder, _still(rng, *performers, duration_s=5), int(rng.integers(5)), rate_hz=16000)


def _ref_avs(folder, cast, rng):
    here, there = rng.permutation([0.10, 0.85]).tolist()
    loud, soft = Performer(cast[0], here, 0.60, loudness=0.16), Performer(cast[1], there, 0.55, loudness=0.03)
    stage = _still(rng, loud, soft, duration_s=10)
    fields, truth = _segmented(folder, stage, int(rng.integers(10)), rate_hz=48000, who=[0])
    return {**fields, "exp": "making the loudest sound"}, truth


def _avss(folder, cast, rng):
    left, middle, right = cast
    performers = Performer(left, 0.0, 0.45), Performer(middle, 0.52, 0.85), Performer(right, 1.0, 0.30)
    stage = _still(rng, *performers, duration_s=10)
    return _segmented(folder, stage, int(rng.integers(10)), rate_hz=48000, semantic=True)


def _avcap(folder, cast, rng):
    left, right = cast
    scene = _scene(rng, Performer(left, 0.15, 0.55), Performer(right, 0.85, 0.65, heard=((4, 10),)))
    caption = f"On a lit stage {_a(left)} plays on the left; after four seconds {_a(right)} on the right joins in."
    return _video(folder, scene, separate_sound=False), {"caption": caption, **_events(scene, "avss")}


_SAMPLES = (
    _Sample("avqa", _avqa, 3, "avqa"),
    _Sample("ave", _ave, 1, "ave"),
    _Sample("avvp", _avvp, 2, "avvp"),
    _Sample("arig", _arig, 2),
    _Sample("s4", _s4, 1),
    _Sample("ms3", _ms3, 3),
    _Sample("ref-avs", _ref_avs, 2),
    _Sample("avss", _avss, 3),
    _Sample("avcap", _avcap, 2),
)


# ----------------------------------------------------------------------------------------------------------- parts


def _scene(rng, *performers: Performer, **size) -> Scene:
    return Scene(performers, seed=int(rng.integers(1 << 31)), **size)


def _still(rng, *performers: Performer, duration_s: float) -> Stage:
    return Stage(_scene(rng, *performers, duration_s=float(duration_s), width=640, height=480))


def _video(folder: pathlib.Path, scene: Scene, *, separate_sound: bool) -> Fields:
    clip: Clip = Stage(scene).clip(rate_hz=VIDEO_RATE_HZ)
    path = folder / "stage.mp4"
    files.write_video(path, clip.frames, fps=scene.fps, wave=clip.wave, rate_hz=clip.rate_hz)
    if not separate_sound:
        return {"video_path": path}
    return {"audio_path": files.write_mp3(folder / "stage.mp3", clip.wave, rate_hz=clip.rate_hz), "video_path": path}


def _picture_and_sound(folder: pathlib.Path, stage: Stage, second: int, *, rate_hz: int):
    """The sound, and the picture in the middle of a second, which gives the file its name."""
    shot = stage.shot(second + 0.5)
    sound = files.write_wav(folder / "audio.wav", stage.sound(rate_hz=rate_hz), rate_hz=rate_hz)
    return {"audio_path": sound, "image_path": files.write_jpeg(folder / f"{second}.jpg", shot.frame)}, shot


def _segmented(folder: pathlib.Path, stage: Stage, second: int, *, rate_hz: int, who=None, semantic: bool = False):
    """Picture, sound and the mask of whoever sounds, or of those named by number."""
    fields, shot = _picture_and_sound(folder, stage, second, rate_hz=rate_hz)
    performers = stage.scene.performers
    who = [k for k, performer in enumerate(performers) if performer.heard] if who is None else who
    if semantic:
        labels = np.zeros(shot.masks.shape[1:], np.uint8)
        for k in who:
            labels[shot.masks[k]] = KINDS[performers[k].kind].label
        mask = colors_from_labels(labels)
    else:
        mask = shot.masks[who].any(0).astype(np.uint8) * 255
    fields["mask_path"] = files.write_png(folder / f"{second}.png", mask)
    return fields, {"objects": [performers[k].kind for k in who]}


def _events(scene: Scene, vocabulary: str) -> Fields:
    rows = [(e.sense, KINDS[e.kind].called(vocabulary), e.start_s, e.end_s) for e in scene.events()]
    return {"events": [dict(zip(("sense", "label", "start_s", "end_s"), row)) for row in rows]}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _write_json(path: pathlib.Path, rows: list[Fields]) -> None:
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
