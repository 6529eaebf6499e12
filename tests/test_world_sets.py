"""The generated data sets: accepted by the readers of the real ones, and true to what was rendered."""

import collections
import csv
import json
import pathlib

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from crab_jax.tasks import ALL, Caption, Choice, Wording
from crab_jax.tasks.clips import Clip
from crab_jax.tasks.vocabulary import AVE_EVENTS, AVVP_EVENTS, MUSIC_AVQA_ANSWERS
from data_pipelines.image import read_mask, read_semantic_mask
from data_pipelines.world import build, casting, expressions
from data_pipelines.world.build import read_ledger
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.layouts import DATA_SETS
from data_pipelines.world.orders import Studio, sounding
from data_pipelines.world.sprites import SpriteStore
from data_pipelines.world.stage import Performer, Scene, Stage

SIZE = (128, 96)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world of all tasks, and the scenes in it by media folder or file."""
    root = tmp_path_factory.mktemp("world") / "root"
    scenes: dict[tuple[str, str, int], Scene] = {}

    class Watched(Studio):
        def stage(self, scene):
            self.scene = scene
            return super().stage(scene)

    studio = Watched()

    def make(order):
        entry = DATA_SETS[order.task].make(order, studio)
        scenes[order.task, order.split, order.index] = studio.scene
        return entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_make", make)
        build.build(root, clips=2, seed=5, size=SIZE, fps=2, least=1, quiet=True)
    return root, scenes


def truths(root, task, split="train"):
    return [entry["truth"] for entry in read_ledger(root, task, split)]


def clips(root, task):
    spec = ALL[task]
    return [clip for split in DATA_SETS[task].splits for clip in spec.clips(root, split)]


# -------------------------------------------------------------------------------------------- readers and parsers


@pytest.mark.parametrize("task", DATA_SETS)
def test_readers_accept_every_annotation_and_its_media_are_there(world, task):
    root, _ = world
    found = clips(root, task)
    assert {c.split for c in found} == set(DATA_SETS[task].splits)
    for clip in found:
        assert isinstance(clip, Clip), clip
        files = [clip.video, clip.audio, *clip.pictures, *clip.masks]
        assert any(files)
        for path in files:
            assert path is None or path.stat().st_size > 60, path
        assert clip.asks


@pytest.mark.parametrize("task", DATA_SETS)
def test_what_is_written_is_what_is_parsed(world, task):
    root, _ = world
    spec = ALL[task]
    for clip in clips(root, task):
        for ask in clip.asks:
            for wording in Wording:
                target = spec.target(ask.row, wording)
                assert spec.parse(target) == spec.answer(ask.row), target
                assert spec.prompt(ask.row, wording)


def test_labels_are_in_the_vocabularies(world):
    root, _ = world
    names = collections.defaultdict(set)
    for task in ("avqa", "ave", "avvp"):
        for clip in clips(root, task):
            for ask in clip.asks:
                answer = ALL[task].answer(ask.row)
                if isinstance(answer, Choice):
                    names[task].add(answer.answer)
                elif task == "ave":
                    names[task] |= {e.name for e in answer.events}
                else:
                    names[task] |= {e.name for e in (*answer.audio, *answer.visual)}
    assert names["avqa"] <= set(MUSIC_AVQA_ANSWERS)
    assert names["ave"] <= set(AVE_EVENTS)
    assert names["avvp"] <= set(AVVP_EVENTS)
    for vocabulary in ("avqa", "ave", "avvp", "avss"):
        assert len(casting.names_in(vocabulary)) >= 8


def test_training_targets_reason_and_test_references_do_not(world):
    root, _ = world
    for task in ("avqa", "ave", "avvp"):
        for clip in clips(root, task):
            for ask in clip.asks:
                assert bool(ask.row.label_text) == (clip.split == "train")
                if ask.row.label_text:
                    assert len(ask.row.label_text.split(".")) > 2


# ------------------------------------------------------------------------------------------------ truth and media


def test_ave_events_are_where_seen_and_heard_meet(world):
    root, _ = world
    for split in ("train", "test"):
        for entry in read_ledger(root, "ave", split):
            row, truth = entry["rows"][0], entry["truth"]
            p = truth["performers"][truth["who"]]
            (seen,), (heard,) = p["seen"], p["heard"]
            assert row["event"] == KINDS[p["kind"]].names["ave"]
            assert [row["start_time"], row["end_time"]] == [max(seen[0], heard[0]), min(seen[1], heard[1])]
            assert row["end_time"] - row["start_time"] >= 2
            others = [q for q in truth["performers"] if q is not p]
            assert not any(q["seen"] and q["heard"] for q in others)
            assert p["kind"] not in [q["kind"] for q in others]


def test_avvp_tables_hold_the_events_of_the_test_split(world):
    root, _ = world
    for sense, field in (("audio", "heard"), ("visual", "seen")):
        with (root / f"data/avvp_data/AVVP_eval_{sense}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        expected = [
            (entry["rows"][0]["vid"], str(round(start)), str(round(end)), KINDS[p["kind"]].names["avvp"])
            for entry in read_ledger(root, "avvp", "test")
            for p in entry["truth"]["performers"]
            for start, end in p[field]
        ]
        assert [(r["filename"], r["onset"], r["offset"], r["event_labels"]) for r in rows] == expected


def test_answers_about_concerts_follow_from_what_was_rendered(world):
    root, _ = world
    words = ("zero", "one", "two", "three", "four", "five", "six")
    checked = 0
    for split in ("train", "test"):
        for truth in truths(root, "avqa", split):
            performers = truth["performers"]
            seen = sorted((p for p in performers if p["seen"]), key=lambda p: p["place"])
            heard_kinds = {p["kind"] for p in performers if p["heard"]}
            for item in truth["items"]:
                expected = {
                    "how_many_heard": words[len(heard_kinds)],
                    "how_many_seen": words[len({p["kind"] for p in seen})],
                    "how_many_sounding": words[sum(bool(p["heard"]) for p in seen)],
                    "how_many_silent": words[sum(not p["heard"] for p in seen)],
                    "where_is_it": {"hall": "indoor", "park": "outdoor"}[truth["setting"]],
                    "voice_over": "yes" if any(not p["seen"] for p in performers) else "no",
                }
                if item["slots"]:
                    x = item["slots"][0]
                    expected["sound_exists"] = "yes" if x in heard_kinds else "no"
                    expected["is_seen"] = "yes" if x in {p["kind"] for p in seen} else "no"
                    expected["how_many_of"] = words[sum(p["kind"] == x for p in seen)]
                if item["template"] in expected:
                    checked += 1
                    assert item["answer"] == expected[item["template"]], item
    assert checked >= 4


def decoded(path):
    with av.open(str(path)) as container:
        wave = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], 1).mean(0)
        return wave.astype(np.float64), container.streams.audio[0].rate


def test_there_is_sound_when_somebody_is_heard_and_little_else(world):
    root, scenes = world
    compared = 0
    for task, folder, prefix in (("ave", "AVE_Dataset", "ave"), ("avvp", "avvp", "llp")):
        for split, count in (("train", 2), ("test", 1)):
            for index in range(count):
                scene = scenes[task, split, index]
                wave, rate = decoded(root / folder / "audio_data" / f"{prefix}_{split}{index:05d}.mp3")
                assert abs(len(wave) / rate - 10) < 0.2
                levels = [np.sqrt((wave[int((s + 0.2) * rate) : int((s + 0.8) * rate)] ** 2).mean()) for s in range(10)]
                loud = [bool(sounding(scene, s + 0.5)) for s in range(10)]
                quiet = max((x for x, heard in zip(levels, loud) if not heard), default=None)
                if quiet is not None and any(loud):
                    compared += 1
                    assert min(x for x, heard in zip(levels, loud) if heard) > 1.5 * quiet
    assert compared


def test_videos_have_pictures_and_sound_or_none_where_there_should_be_none(world):
    root, _ = world
    for path, seconds, has_sound in (
        (root / "AVE_Dataset/AVE/ave_train00000.mp4", 10, True),
        (root / "music-avqa/video/music_train00000.mp4", 60, True),
        (root / "video-llava/valley/00000/train00000.mp4", 4, False),
    ):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert bool(container.streams.audio) == has_sound
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert frames[0].shape == (SIZE[1], SIZE[0], 3)
        assert len(frames) == seconds * (1 if seconds == 60 else 2)


@pytest.mark.parametrize(("task", "version"), [("s4", "v1s"), ("ms3", "v1m"), ("avss", "v2")])
def test_masks_are_the_pixels_of_who_sounds(world, task, version):
    root, scenes = world
    scene = scenes[task, "train", 1]
    stage = Stage(scene, sprites=SpriteStore())
    folder = root / "AVS" / version / f"{task}_train00001"
    for second in range(round(scene.duration_s)):
        shot, who = stage.shot(second + 0.5), sounding(scene, second)
        assert who
        if task == "avss":
            labels = read_semantic_mask(folder / "labels_rgb" / f"{second}.png", size=96)
            assert set(np.unique(labels)) <= {0, *(KINDS[scene.performers[k].kind].label for k in who)}
            with Image.open(folder / "labels_rgb" / f"{second}.png") as image:
                assert np.array_equal(np.asarray(image).any(-1), shot.masks[who].any(0))
        else:
            with Image.open(folder / "labels_semantic" / f"{second}.png") as image:
                assert image.mode == "L"
                assert np.array_equal(np.asarray(image), shot.masks[who].any(0).astype(np.uint8) * 255)
        with Image.open(folder / "frames" / f"{second}.jpg") as image:
            assert np.abs(np.asarray(image).astype(int) - shot.frame).mean() < 3
    # What the mask covers is what disappears from the picture with the performer.
    k = sounding(scene, 0)[0]
    rest = (*scene.performers[:k], Performer(scene.performers[k].kind, 0.5, seen=()), *scene.performers[k + 1 :])
    without = Stage(Scene(**{**vars(scene), "performers": rest}), sprites=SpriteStore()).shot(0.5).frame
    with_it = stage.shot(0.5)
    changed = np.abs(with_it.frame.astype(int) - without).max(-1) > 8
    assert changed[with_it.masks[k]].mean() > 0.9


def test_boxes_are_tight_around_who_sounds_in_the_second_asked_about(world):
    root, scenes = world
    for row in json.loads((root / "AVS/v1s_grounding_samples.json").read_text()):
        second = int(pathlib.Path(row["frame_path"]).stem)
        scene = scenes["arig", row["split"], int(row["audio_path"].split("/")[2][-5:])]
        (who,) = sounding(scene, second)
        assert row["a_obj"] == scene.performers[who].kind
        mask = read_mask(root / row["mask_path"], size=224)
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        found = np.array([*row["top_left"], *row["bottom_right"]])
        assert np.abs(found - (columns[0], rows[0], columns[-1], rows[-1])).max() <= 2
        assert soundfile.info(root / row["audio_path"]).duration == 5


def test_expressions_mean_one_performer_or_nobody(world):
    root, scenes = world
    with (root / "ref-avs/REFAVS/metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "test_s", "test_u", "test_n"}
    assert len({row["uid"] for row in rows}) == len(rows)
    for row in rows:
        video, word = row["uid"].rsplit("_", 2)[:2]
        masks = [
            read_mask(root / f"ref-avs/REFAVS/gt_mask/{video}/fid_{row['fid']}/0000{i}.png", size=64) for i in range(10)
        ]
        assert row["vid"] == video
        if row["split"] == "test_n":
            assert word == "null"
        if word == "null":
            assert not np.any(masks)
        else:
            assert all(m.any() for m in masks)
            assert (word in expressions.UNSEEN) == (row["split"] == "test_u")
    for (task, split, _), scene in scenes.items():
        if task == "ref-avs" and split != "test_u":
            assert not {p.kind for p in scene.performers} & set(expressions.UNSEEN)


def test_null_expressions_are_true_of_nobody():
    rng = np.random.default_rng(0)
    rules = casting.Casting(rng, None)
    for _ in range(40):
        cast = rules.stand(casting.names_in("avss"), 3)
        heard = [casting.timed(p, heard=((k, 10),)) if k < 2 else p for k, p in enumerate(cast)]
        scene = rules.scene(heard, duration_s=10, fps=1, size=(32, 32))
        meant = {e.text for e in expressions.about_somebody(scene)}
        nobody = {e.text for e in expressions.about_nobody(scene, rng, casting.names_in("avss"))}
        assert not meant & nobody
        assert "The silent one" in meant
        by_text = {e.text: e.who for e in expressions.about_somebody(scene)}
        assert cast[by_text["The silent one"]] is cast[2]
        assert by_text["The first one to make a sound"] == 0
        assert by_text["The leftmost one"] == 0
        assert by_text[f"The one just left of the {KINDS[cast[2].kind].noun}"] == 1
        louder = [casting.timed(p, loudness=0.1 * (1 + k)) for k, p in enumerate(heard)]
        said = {e.text: e.who for e in expressions.about_somebody(Scene(tuple(louder)))}
        assert [said[f"Making the {how} sound"] for how in ("loudest", "softest")] == [1, 0]
        by_text = collections.defaultdict(set)
        for e in expressions.about_somebody(scene):
            by_text[e.text].add(e.who)
        assert all(len(who) == 1 for who in by_text.values())


def test_captions_name_everybody(world):
    root, _ = world
    for entry in (e for split in ("train", "test") for e in read_ledger(root, "avcap", split)):
        for p in entry["truth"]["performers"]:
            kind = KINDS[p["kind"]]
            assert kind.noun in entry["rows"][0]["desc"] or kind.sound in entry["rows"][0]["desc"]
    for clip in clips(root, "avcap"):
        answer = ALL["avcap"].answer(clip.asks[0].row)
        assert isinstance(answer, Caption)
