"""Media for the quick start: one sample for each of the nine tasks, rendered here, so nothing has to be downloaded."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from data_pipelines.image import colors_from_labels
from data_pipelines.world import files
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.stage import Clip, Performer, Scene, Stage

VIDEO_RATE_HZ = 44100


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
    director, samples, truths = _Director(seed), [], []
    for task, write in _SAMPLES.items():
        place = folder / task
        place.mkdir(parents=True, exist_ok=True)
        fields, truth = write(place, director, director.draw(1 << 31))
        fields = {k: f"{task}/{v.name}" if isinstance(v, pathlib.Path) else v for k, v in fields.items()}
        samples.append({"task": task, **fields})
        truths.append({"task": task, **truth})
    _write_json(folder / "samples.json", samples)
    _write_json(folder / "truth.json", truths)
    return folder / "samples.json"


class _Director:
    """Makes the choices of all samples; prefers kinds that have not been on the stage yet."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self._shown = dict.fromkeys(KINDS, 0)

    def draw(self, below: int) -> int:
        return int(self.rng.integers(below))

    def cast(self, count: int, *, vocabulary: str | None = None) -> list[str]:
        """Different kinds that a vocabulary has a name for."""
        known = [kind.name for kind in KINDS.values() if vocabulary is None or vocabulary in kind.names]
        known = [known[k] for k in self.rng.permutation(len(known))]
        chosen = sorted(known, key=self._shown.__getitem__)[:count]
        for name in chosen:
            self._shown[name] += 1
        return chosen


def _avqa(folder, director, seed):
    left, middle, right = director.cast(3, vocabulary="avqa")
    performers = (
        Performer(left, 0.0, 0.35, heard=((0, 4.5), (7, 10))),
        Performer(middle, 0.5, 0.80, heard=((3, 10),)),
        Performer(right, 1.0, 0.25, heard=()),
    )
    clip = Stage(Scene(performers, seed)).clip(rate_hz=VIDEO_RATE_HZ)
    fields = {**_video(folder, clip), **_separate_sound(folder, clip)}
    fields["question"] = "How many of the instruments in the video are sounding?"
    return fields, {"answer": "two", **_events(clip.scene)}


def _ave(folder, director, seed):
    (kind,) = director.cast(1, vocabulary="ave")
    start = 1 + director.draw(3)
    event = (start, start + 5)
    scene = Scene((Performer(kind, float(director.rng.uniform(0.3, 0.7)), 0.75, heard=(event,)),), seed)
    clip = Stage(scene).clip(rate_hz=VIDEO_RATE_HZ)
    fields = {**_video(folder, clip), **_separate_sound(folder, clip)}
    return fields, {"event": KINDS[kind].called("ave"), "start_s": event[0], "end_s": event[1]}


def _avvp(folder, director, seed):
    first, second = director.cast(2, vocabulary="avvp")
    performers = (
        Performer(first, 0.18, 0.60, heard=((1, 6),)),
        Performer(second, 0.85, 0.45, seen=((5, 10),), heard=((3, 9),)),  # is heard before it is seen
    )
    clip = Stage(Scene(performers, seed)).clip(rate_hz=VIDEO_RATE_HZ)
    return {**_video(folder, clip), **_separate_sound(folder, clip)}, _events(clip.scene, vocabulary="avvp")


def _avcap(folder, director, seed):
    left, right = director.cast(2)
    scene = Scene((Performer(left, 0.15, 0.55), Performer(right, 0.85, 0.65, heard=((4, 10),))), seed)
    clip = Stage(scene).clip(rate_hz=VIDEO_RATE_HZ)
    caption = f"On a lit stage {_a(left)} plays on the left; after four seconds {_a(right)} on the right joins in."
    return _video(folder, clip), {"caption": caption, **_events(scene)}


def _arig(folder, director, seed):
    sounding, silent = director.cast(2)
    places = director.rng.permutation([0.12, 0.88])
    performers = (
        Performer(sounding, float(places[0]), 0.60),
        Performer(silent, float(places[1]), 0.50, heard=()),
    )
    stage, second = Stage(_still(performers, seed, duration_s=5.0)), director.draw(5)
    shot = stage.shot(second + 0.5)
    fields = {
        **_sound(folder, stage, rate_hz=16000),
        "image_path": files.write_jpeg(folder / f"{second}.jpg", shot.frame),
    }
    return fields, {"object": sounding, "box": shot.boxes(224)[0]}


def _s4(folder, director, seed):
    (kind,) = director.cast(1)
    scene = _still((Performer(kind, float(director.rng.uniform(0.25, 0.75)), 0.85),), seed, duration_s=5.0)
    return _segmentation(folder, Stage(scene), director.draw(5), rate_hz=16000)


def _ms3(folder, director, seed):
    left, middle, right = director.cast(3)
    performers = (
        Performer(left, 0.0, 0.55),
        Performer(middle, 0.5, 0.25, heard=()),
        Performer(right, 1.0, 0.60),
    )
    return _segmentation(folder, Stage(_still(performers, seed, duration_s=5.0)), director.draw(5), rate_hz=16000)


def _ref_avs(folder, director, seed):
    loud, soft = director.cast(2)
    places = director.rng.permutation([0.10, 0.85])
    performers = (
        Performer(loud, float(places[0]), 0.60, loudness=0.16),
        Performer(soft, float(places[1]), 0.55, loudness=0.03),
    )
    stage = Stage(_still(performers, seed, duration_s=10.0))
    fields, truth = _segmentation(folder, stage, director.draw(10), rate_hz=48000, who=(0,))
    return {**fields, "exp": "making the loudest sound"}, truth


def _avss(folder, director, seed):
    left, middle, right = director.cast(3)
    performers = (Performer(left, 0.0, 0.45), Performer(middle, 0.52, 0.85), Performer(right, 1.0, 0.30))
    stage = Stage(_still(performers, seed, duration_s=10.0))
    return _segmentation(folder, stage, director.draw(10), rate_hz=48000, semantic=True)


_SAMPLES = {
    "avqa": _avqa,
    "ave": _ave,
    "avvp": _avvp,
    "arig": _arig,
    "s4": _s4,
    "ms3": _ms3,
    "ref-avs": _ref_avs,
    "avss": _avss,
    "avcap": _avcap,
}


def _still(performers, seed: int, *, duration_s: float) -> Scene:
    return Scene(tuple(performers), seed, duration_s=duration_s, width=640, height=480)


def _segmentation(folder, stage: Stage, second: int, *, rate_hz: int, who=None, semantic: bool = False):
    """Sound, the picture named by its second, and the mask of whoever sounds then."""
    shot, performers = stage.shot(second + 0.5), stage.scene.performers
    who = [k for k, p in enumerate(performers) if p.heard] if who is None else list(who)
    if semantic:
        labels = np.zeros(shot.masks.shape[1:], np.uint8)
        for k in who:
            labels[shot.masks[k]] = KINDS[performers[k].kind].label
        mask = colors_from_labels(labels)
    else:
        mask = shot.masks[who].any(0).astype(np.uint8) * 255
    fields = {
        **_sound(folder, stage, rate_hz=rate_hz),
        "image_path": files.write_jpeg(folder / f"{second}.jpg", shot.frame),
        "mask_path": files.write_png(folder / f"{second}.png", mask),
    }
    return fields, {"objects": [performers[k].kind for k in who]}


def _sound(folder, stage: Stage, *, rate_hz: int):
    return {"audio_path": files.write_wav(folder / "audio.wav", stage.sound(rate_hz=rate_hz), rate_hz=rate_hz)}


def _video(folder, clip: Clip):
    path = folder / "stage.mp4"
    files.write_video(path, clip.frames, fps=clip.scene.fps, wave=clip.wave, rate_hz=clip.rate_hz)
    return {"video_path": path}


def _separate_sound(folder, clip: Clip):
    return {"audio_path": files.write_mp3(folder / "stage.mp3", clip.wave, rate_hz=clip.rate_hz)}


def _events(scene: Scene, *, vocabulary: str = "avss"):
    rows = [(e.sense, KINDS[e.kind].called(vocabulary), e.start_s, e.end_s) for e in scene.events()]
    return {"events": [{"sense": s, "label": label, "start_s": a, "end_s": b} for s, label, a, b in rows]}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _write_json(path: pathlib.Path, rows: list[dict]):
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
