"""Pictures one second apart with the sound beside them: AVSBench (s4, ms3, avss) and the boxes made from it (arig)."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.world import files
from data_pipelines.world.casting import Casting, names_in, timed
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.orders import Order, Studio, binary, coloured, sounding, truth
from data_pipelines.world.stage import Performer, Scene, Shot

Entry = dict[str, Any]
_LEAST_PIXELS = 0.004  # of the picture, that a sounding performer must show; else the scene is drawn anew


def arig(order: Order, studio: Studio) -> Entry:
    """Two to four performers all move; one sounds first, another later. Two seconds of each clip are asked about."""

    def draw(casting: Casting) -> Scene:
        cast = casting.stand(names_in("avss"), int(casting.rng.choice((2, 3, 4), p=(0.4, 0.4, 0.2))))
        first, second = casting.rng.permutation(len(cast))[:2].tolist()
        turn = int(casting.rng.integers(1, 5))
        heard = {first: (0, turn), second: (turn, 5)}
        return _scene(casting, order, cast, {k: (span,) for k, span in heard.items()}, 5)

    scene, shots, folder, uid = _shoot(order, studio, draw, "v1s", 5)
    turn = next(k for k in range(1, 5) if sounding(scene, k) != sounding(scene, 0))
    rng = order.rng()
    rows, boxes = [], []
    for second in (int(rng.integers(0, turn)), int(rng.integers(turn, 5))):
        (who,) = sounding(scene, second)
        files.write_png(_in(folder / "labels_semantic" / f"{second}.png"), binary(shots[second], [who]))
        found = shots[second].boxes(224)
        x1, y1, x2, y2 = found[who] or (1000, 1000, 1000, 1000)
        below = f"AVS/v1s/{uid}"
        rows.append(
            {
                "split": order.split,
                "audio_path": f"{below}/audio.wav",
                "frame_path": f"{below}/frames/{second}.jpg",
                "mask_path": f"{below}/labels_semantic/{second}.png",
                "top_left": [x1, y1],
                "bottom_right": [x2, y2],
                "a_obj": KINDS[scene.performers[who].kind].name,
            }
        )
        boxes.append({"second": second, "who": who, "boxes": [list(box) if box else None for box in found]})
    return {"rows": rows, "truth": truth(scene, items=boxes)}


def s4(order: Order, studio: Studio) -> Entry:
    """One performer sounds all the time; up to three others move in silence."""

    def draw(casting: Casting) -> Scene:
        cast = casting.stand(names_in("avss"), int(casting.rng.choice((1, 2, 3, 4), p=(0.08, 0.42, 0.35, 0.15))))
        return _scene(casting, order, cast, {int(casting.rng.integers(len(cast))): ((0, 5),)}, 5)

    return _segmented(order, studio, draw, "v1s", 5)


def ms3(order: Order, studio: Studio) -> Entry:
    """Two to four performers; in every second one to three of them sound, others move in silence."""

    def draw(casting: Casting) -> Scene:
        cast = casting.stand(names_in("avss"), int(casting.rng.choice((2, 3, 4), p=(0.35, 0.40, 0.25))))
        return _scene(casting, order, cast, _turns(casting, len(cast), 5), 5)

    return _segmented(order, studio, draw, "v1m", 5)


def avss(order: Order, studio: Studio) -> Entry:
    """One to four performers over ten seconds; each pixel of whoever sounds has the colour of its class."""

    def draw(casting: Casting) -> Scene:
        cast = casting.stand(names_in("avss"), int(casting.rng.choice((1, 2, 3, 4), p=(0.05, 0.20, 0.40, 0.35))))
        return _scene(casting, order, cast, _turns(casting, len(cast), 10), 10)

    return _segmented(order, studio, draw, "v2", 10)


def _turns(casting: Casting, count: int, seconds: int) -> dict[int, tuple[tuple[int, int], ...]]:
    """Who sounds when: at least one in every second, three at most; mostly somebody never does."""
    most = count if casting.chance(0.25) else max(count - 1, 1)
    players = casting.rng.permutation(count)[: int(casting.rng.integers(1, most + 1))].tolist()
    while True:
        heard = {k: casting.spans(seconds) for k in players}
        counts = [sum(a <= s < b for spans in heard.values() for a, b in spans) for s in range(seconds)]
        if min(counts) >= 1 and max(counts) <= 3:
            return heard


def _scene(casting: Casting, order: Order, cast: list[Performer], heard: dict, seconds: int) -> Scene:
    # To the eye everybody plays all the time, so no single picture tells who sounds.
    performers = [
        timed(p, heard=heard.get(k, ()), moves=((0, seconds),), loudness=casting.loudness()) for k, p in enumerate(cast)
    ]
    return casting.scene(performers, duration_s=seconds, fps=order.fps, size=order.size)


def _shoot(order: Order, studio: Studio, draw, version: str, seconds: int):
    """Draws scenes until whoever sounds can be seen enough, and writes pictures and sound."""
    casting = Casting.of(order.rng(), order.split)
    uid = f"{order.task}_{order.name}"
    folder = order.root / "AVS" / version / uid
    for attempt in range(20):
        scene = draw(casting)
        stage = studio.stage(scene)
        shots = [stage.shot(second + 0.5) for second in range(seconds)]
        shares = [shot.masks[k].mean() for s, shot in enumerate(shots) for k in sounding(scene, s)]
        if min(shares) >= _LEAST_PIXELS or attempt == 19:
            break
    studio.stills(stage, folder, shots)
    return scene, shots, folder, uid


def _segmented(order: Order, studio: Studio, draw, version: str, seconds: int) -> Entry:
    scene, shots, folder, uid = _shoot(order, studio, draw, version, seconds)
    semantic = version == "v2"
    for second, shot in enumerate(shots):
        who = sounding(scene, second)
        picture = (
            coloured(shot, {k: KINDS[scene.performers[k].kind].label for k in who}) if semantic else binary(shot, who)
        )
        files.write_png(_in(folder / ("labels_rgb" if semantic else "labels_semantic") / f"{second}.png"), picture)
    row = {
        "vid": uid,
        "uid": uid,
        "s_min": 0,
        "s_sec": seconds,
        "a_obj": ", ".join(dict.fromkeys(p.kind for p in scene.performers if p.heard)),
        "split": order.split,
        "label": version,
    }
    return {"rows": [row], "truth": truth(scene, areas=areas(shots))}


def areas(shots: list[Shot]) -> list[list[int]]:
    """Visible pixels of every performer, picture by picture."""
    return [np.count_nonzero(shot.masks, axis=(1, 2)).tolist() for shot in shots]


def _in(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
