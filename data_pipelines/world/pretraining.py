"""What comes before the nine tasks: questions about pictures and mute videos, captions of sounds, masks of objects."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.world import files, phrases
from data_pipelines.world.casting import Casting, names_in, pretending, side_of, timed
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.orders import Order, Studio, truth
from data_pipelines.world.stage import Performer, Scene, Shot

Entry = dict[str, Any]
STILL_SECONDS, SILENT_SECONDS, SOUND_SECONDS = 5, 4, 10
LEAST_AREA = 1000  # pixels; smaller objects are skipped by those who read LVIS this way
FIRST_CAPTION = 20000  # numbers of sounds stay clear of 12347, which every reader skips


def draw_scene(
    casting: Casting, order: Order, seconds: float, counts: tuple[int, ...], vocabulary: str = "avss"
) -> Scene:
    """Silent performers, some of whom move as if they sounded; `counts`: how many, each as likely.

    `vocabulary` says out of which kinds, see `names_in`.
    """
    rng = casting.rng
    cast = casting.stand(names_in(vocabulary), int(rng.choice(counts)))
    performers = [pretending(casting, p, round(seconds)) if casting.chance(0.6) else p for p in cast]
    return casting.scene(performers, duration_s=seconds, fps=order.fps, size=order.size)


_ASK_ALL = (
    "Describe the picture.",
    "What do you see?",
    "What is shown here?",
    "Give a short description.",
    "Share what can be seen.",
)


def _talk(rng: np.random.Generator, scene: Scene, modality: str, shot: Shot | None = None) -> list[dict[str, str]]:
    """One question about what is seen, and its answer, as a conversation of two turns; of a still, also for boxes."""
    cast = scene.performers
    boxes = [] if shot is None else [(p, box) for p, box in zip(cast, shot.boxes(224)) if box]
    which = int(rng.integers(4 if not boxes else 6))
    if which == 0 or not cast:
        question = phrases.say(rng, _ASK_ALL)
        where = phrases.say(rng, phrases.SETTING[scene.setting])
        spots = [f"{phrases.a(phrases.noun(p.kind))} {phrases.ON[side_of(p.place)]}" for p in cast]
        answer = f"{where} there is {phrases.listing(spots)}"
    elif which == 1:
        p = cast[int(rng.integers(len(cast)))]
        question = phrases.say(rng, ("Where is the {x}?", "On which side is the {x}?"), x=phrases.noun(p.kind))
        side = phrases.ON[side_of(p.place)]
        answer = phrases.say(rng, ("it is {side}", "the {x} is {side}"), side=side, x=phrases.noun(p.kind))
    elif which == 2:
        question = phrases.say(rng, ("How many performers are there?", "How many things stand there?"))
        counted = phrases.NUMBERS[len(cast)]
        answer = f"{counted}: {phrases.things([p.kind for p in cast])}"
    elif which > 3:
        p, (x1, y1, x2, y2) = boxes[int(rng.integers(len(boxes)))]
        question = phrases.say(rng, ("Where exactly is the {x}?", "Give the box of the {x}."), x=phrases.noun(p.kind))
        answer = (
            f"its coordinate of top left corner is ({x1},{y1}) and coordinate of bottom right corner is ({x2},{y2})"
        )
    else:
        side = ("left", "right")[int(rng.integers(2))]
        p = cast[0 if side == "left" else -1]
        question = f"What stands farthest to the {side}?"
        answer = phrases.say(rng, ("it is {a}", "{a}", "that is {a}"), a=phrases.a(phrases.noun(p.kind)))
    tag = f"<{modality}>"
    human = f"{tag}\n{question}" if rng.random() < 0.5 else f"{question}\n{tag}"
    return [{"from": "human", "value": human}, {"from": "gpt", "value": answer[:1].upper() + answer[1:]}]


def llava(order: Order, studio: Studio) -> Entry:
    """A picture and a question about it."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    scene = draw_scene(casting, order, STILL_SECONDS, (1, 1, 2, 3, 4))
    name = f"llava_image/{order.index // 1000:05d}/{order.name}.jpg"
    path = order.root / "video-llava" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shot = studio.stage(scene).shot(float(rng.uniform(0, STILL_SECONDS)))
    files.write_jpeg(path, shot.frame)
    row = {"id": order.name, "image": name, "conversations": _talk(rng, scene, "image", shot)}
    return {"rows": [row], "truth": truth(scene)}


def valley(order: Order, studio: Studio) -> Entry:
    """A silent video and a question about it."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    scene = draw_scene(casting, order, SILENT_SECONDS, (1, 2, 3))
    name = f"valley/{order.index // 1000:05d}/{order.name}.mp4"
    studio.video(studio.stage(scene), order.root / "video-llava" / name, None)
    row = {"id": order.name, "video": name, "conversations": _talk(rng, scene, "video")}
    return {"rows": [row], "truth": truth(scene)}


_CAPTIONS = (
    "{sounds}",
    "{sounds} can be heard",
    "there is {sounds}",
    "the sound of {sounds}",
    "someone hears {sounds}",
)


def _when(p: Performer) -> str:
    return f"{KINDS[p.kind].sound} {phrases.times(p.heard)}"


def audiocaps(order: Order, studio: Studio) -> Entry:
    """Ten seconds of one to three sounds, and a caption; every second one says when each is heard."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    cast = casting.stand(names_in("avss"), 0, int(rng.choice((1, 2, 3), p=(0.45, 0.40, 0.15))))
    exact = casting.chance(0.5)
    if exact:
        heard = [casting.spans(SOUND_SECONDS) for _ in cast]
    else:
        heard = [((start, SOUND_SECONDS),) for start in sorted(int(v) for v in rng.choice((0, 0, 0, 3, 5), len(cast)))]
    performers = [timed(p, heard=spans, loudness=casting.loudness()) for p, spans in zip(cast, heard)]
    scene = casting.scene(performers, duration_s=SOUND_SECONDS, fps=1, size=(32, 32))  # nobody looks
    number = FIRST_CAPTION + 100000 * ("train", "val", "test").index(order.split) + order.index
    path = order.root / "AudioCaps" / "data" / f"{number}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_wav(path, studio.stage(scene).sound(rate_hz=16000), rate_hz=16000)
    if exact:
        caption = phrases.say(rng, ("{all}",), all=phrases.listing([_when(p) for p in performers]))
    else:
        first = performers[0].heard[0][0]
        caption = phrases.say(
            rng, _CAPTIONS, sounds=phrases.sounds([p.kind for p in performers if p.heard[0][0] == first])
        )
        if later := [p.kind for p in performers if p.heard[0][0] > first]:
            link = phrases.one(rng, (", then {s}", ", followed by {s}", "; later {s}"))
            caption += link.format(s=phrases.sounds(later))
    row = {"audiocap_id": number, "youtube_id": f"bandstand{number}", "start_time": 0, "caption": f"{caption}."}
    return {"rows": [row], "truth": truth(scene, caption=row["caption"])}


def lvis(order: Order, studio: Studio) -> Entry:
    """A picture of twice the usual size, and a mask for every object in it that is large enough."""
    order = dataclasses.replace(order, size=(2 * order.size[0], 2 * order.size[1]))
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    scene = draw_scene(casting, order, STILL_SECONDS, (1, 2, 3, 4))
    shot = studio.stage(scene).shot(float(rng.uniform(0, STILL_SECONDS)))
    image_id, folder = order.index + 1, order.root / "LVIS"
    (folder / "train2017").mkdir(parents=True, exist_ok=True)
    (folder / "binary_mask").mkdir(parents=True, exist_ok=True)
    files.write_jpeg(folder / "train2017" / f"{image_id:012d}.jpg", shot.frame)
    rows = []
    for k, (performer, box) in enumerate(zip(scene.performers, shot.boxes())):
        area = int(np.count_nonzero(shot.masks[k]))
        if box is None or area < LEAST_AREA:
            continue
        kind, number = KINDS[performer.kind], 10 * image_id + k
        files.write_png(folder / "binary_mask" / f"{number}.png", shot.masks[k].astype(np.uint8) * 255)
        x1, y1, x2, y2 = box
        rows.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": kind.label,
                "bbox": [x1, y1, x2 + 1 - x1, y2 + 1 - y1],
                "name": kind.noun,
                "def": kind.about,
                "area": area,
            }
        )
    return {"rows": rows, "truth": truth(scene)}
