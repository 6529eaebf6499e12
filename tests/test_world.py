"""The generated world: the same every time, true to its own ground truth, and written as files that read back."""

import json

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from crab_jax.tasks.vocabulary import AVE_EVENTS, AVSS_CLASSES, AVVP_EVENTS, MUSIC_AVQA_ANSWERS
from data_pipelines.image import PALETTE, read_mask, read_semantic_mask
from data_pipelines.world import KINDS, Performer, Scene, Stage, files, quickstart, sound, write_quickstart_media
from data_pipelines.world.looks import Pose
from data_pipelines.world.paint import Canvas, box, disc, repeat, turn

RATE = 16000
TASKS = ["avqa", "ave", "avvp", "arig", "s4", "ms3", "ref-avs", "avss", "avcap"]


def small(*performers, seconds=2.0, **size):
    return Scene(tuple(performers), duration_s=seconds, **{"fps": 5, "width": 160, "height": 120, "seed": 3, **size})


def energy(wave, start_s, end_s):
    part = wave[round(start_s * RATE) : round(end_s * RATE)]
    return float((part.astype(np.float64) ** 2).mean())


# ---------------------------------------------------------------------------------------------------- determinism


def test_the_same_seed_gives_the_same_clip_and_another_one_does_not():
    def scene(seed):
        return small(Performer("violin", 0.2), Performer("drum", 0.9, heard=((0.5, 1.5),)), seed=seed)

    one, same, other = (Stage(scene(seed)).clip(rate_hz=RATE) for seed in (1, 1, 2))
    for field in ("frames", "masks", "wave"):
        assert np.array_equal(getattr(one, field), getattr(same, field))
    assert (one.frames != other.frames).mean() > 0.5
    assert (one.wave != other.wave).mean() > 0.5
    assert one.frames.shape == (10, 120, 160, 3)
    assert one.frames.dtype == np.uint8
    assert one.masks.shape == (2, 10, 120, 160)
    assert one.wave.shape == (2 * RATE, 2)
    assert one.wave.dtype == np.float32
    assert 0.01 < np.abs(one.wave).max() < 1


def test_a_single_moment_is_the_frame_of_the_clip():
    stage = Stage(small(Performer("bird", 0.5)))
    assert np.array_equal(stage.shot(3 / 5).frame, stage.clip(rate_hz=8000).frames[3])


# -------------------------------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_performer_changes_the_picture(kind):
    who = Performer(kind, 0.4, 0.6)
    with_it, without = (Stage(small(*p, width=320, height=240)).shot(0.7) for p in ((who,), ()))
    changed = np.abs(with_it.frame.astype(int) - without.frame.astype(int)).max(-1)
    mask = with_it.masks[0]
    assert 0.015 < mask.mean() < 0.25
    assert (changed[mask] > 8).mean() > 0.93  # some of it has the colour of what is behind
    above = np.arange(240)[:, None] < np.nonzero(mask.any(1))[0].max() - 40  # shadow and mirror image lie on the floor
    grown = mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        grown |= np.roll(mask, step, axis)
    outside = ~grown & above
    assert (changed[outside] > 40).mean() < 0.002


def test_hidden_performers_have_no_pixels_and_no_influence():
    hidden = Performer("guitar", 0.5, seen=((0.8, 1.4),))
    clip, empty = (Stage(small(*p)).clip(rate_hz=8000) for p in ((hidden,), ()))
    for k in range(10):
        visible = 0.8 <= k / 5 < 1.4
        assert clip.masks[0, k].any() == visible
        assert np.array_equal(clip.frames[k], empty.frames[k]) == (not visible)


def test_nearer_performers_cover_farther_ones_and_no_pixel_belongs_to_two():
    far, near = Performer("bell", 0.5, 0.2, heard=()), Performer("accordion", 0.5, 0.9, heard=())
    alone = Stage(small(far)).shot(0.5).masks[0]
    for order in ((far, near), (near, far)):
        masks = Stage(small(*order)).shot(0.5).masks
        assert not masks.all(0).any()
        back, front = (masks[order.index(p)] for p in (far, near))
        assert (alone & front).sum() > 100
        assert np.array_equal(back, alone & ~front)


def test_everybody_fits_into_the_picture_at_both_ends():
    for kind in KINDS:
        for place in (0.0, 1.0):
            mask = Stage(small(Performer(kind, place))).shot(1.0).masks[0]
            assert not mask[:, [0, -1]].any(), (kind, place)


def test_performers_move_while_they_sound_and_rest_while_they_do_not():
    for kind in KINDS:
        stage = Stage(small(Performer(kind, 0.5, heard=((1, 2),))))
        poses = [stage.pose(0, t) for t in (0.1, 0.5, 0.95)]
        assert set(poses) == {Pose()}, kind
        assert len({stage.pose(0, t) for t in (1.2, 1.4, 1.6, 1.8)}) == 4, kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_stays_within_its_reach(kind):
    side, pixel = 160, 1.6 / 160
    x = np.tile((np.arange(side, dtype=np.float32) + 0.5) * pixel - 0.8, (side, 1))
    y = np.tile(1.4 - (np.arange(side, dtype=np.float32)[:, None] + 0.5) * pixel, (1, side))
    moved = []
    for pose in (Pose(), Pose(1, 1, 0.5, 1), Pose(1, 0, 0.5, 2), Pose(1, 0.2, 1.5, 4), Pose(0.5, 0.5, 2.3, 7)):
        canvas = Canvas(x, y, pixel=pixel)
        KINDS[kind].look(canvas, pose)
        solid = canvas.alpha > 0.5
        moved.append(solid)
        assert np.abs(x[solid]).max() < KINDS[kind].wide / 2
        assert y[solid].max() < KINDS[kind].tall
        assert y[solid].min() > -0.05
        assert canvas.rgb.min() >= 0
        assert (canvas.rgb <= canvas.alpha[..., None] + 1e-4).all()  # colours stay within 1
        assert canvas.rgb.dtype == canvas.alpha.dtype == np.float32
    assert any((moved[0] != m).any() for m in moved[1:])


def test_boxes_are_tight_and_follow_the_grid():
    shot = Stage(small(Performer("drum", 0.3), Performer("bird", 0.8, seen=((1.5, 2),)))).shot(0.5)
    (x1, y1, x2, y2), none = shot.boxes()
    assert none is None
    inside = np.zeros_like(shot.masks[0])
    inside[y1 : y2 + 1, x1 : x2 + 1] = True
    assert not (shot.masks[0] & ~inside).any()
    assert all(shot.masks[0][s].any() for s in (np.s_[y1], np.s_[y2], np.s_[:, x1], np.s_[:, x2]))
    grid = shot.boxes(224)[0]
    assert grid == (
        int(x1 * 224 / 160),
        int(y1 * 224 / 120),
        int((x2 + 1) * 1.4 - 1e-6),
        int((y2 + 1) * 224 / 120 - 1e-6),
    )
    assert max(grid) <= 223


def test_the_camera_drifts_a_little():
    frames = Stage(small(seconds=6.0)).clip(rate_hz=8000).frames.astype(int)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert (steps > 0.01).all()
    assert steps.max() < 6


# -------------------------------------------------------------------------------------------------- what is heard


@pytest.mark.parametrize("kind", KINDS)
def test_sound_is_heard_where_it_should_be_and_nowhere_else(kind):
    stage = Stage(small(Performer(kind, 0.3, heard=((0.5, 1.5), (2.0, 2.6)), seen=()), seconds=3.0))
    part = stage.part(0, rate_hz=RATE)
    for start_s, end_s in ((0, 0.5), (1.5, 2.0), (2.6, 3)):
        assert energy(part, start_s, end_s) == 0
        assert energy(stage.sound(rate_hz=RATE), start_s, end_s) < 1e-5  # the hall itself
    for start_s, end_s in ((0.5, 0.75), (0.75, 1.0), (1.0, 1.25), (2.0, 2.3)):
        assert energy(part, start_s, end_s) > 1e-4
    sounding = (np.abs(part).max(1) > 0).nonzero()[0] / RATE
    assert abs(sounding[0] - 0.5) < 0.02
    assert abs(sounding[-1] - 2.6) < 0.02


def test_loudness_is_what_was_asked_for():
    for loudness in (0.02, 0.11):
        part = Stage(small(Performer("trumpet", 0.5, heard=((0, 1),), loudness=loudness))).part(0, rate_hz=RATE)
        assert np.sqrt((part[:RATE] ** 2).sum(1).mean()) == pytest.approx(loudness, rel=1e-3)


def test_the_place_is_heard_in_stereo():
    def balance(place):
        left, right = (Stage(small(Performer("flute", place))).part(0, rate_hz=RATE) ** 2).sum(0)
        return right / (left + right)

    balances = [balance(place) for place in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert balances == sorted(balances)
    assert balances[0] < 0.15
    assert abs(balances[2] - 0.5) < 0.04
    assert balances[4] > 0.85
    assert all(np.hypot(*sound.pan(p)) == pytest.approx(1) for p in (0, 0.3, 0.9))


def test_kinds_sound_different():
    def spectrum(kind):
        wave = Stage(small(Performer(kind, 0.5))).part(0, rate_hz=RATE).mean(1)
        bands = np.array_split(np.abs(np.fft.rfft(wave))[: RATE // 2], 40)
        levels = np.log(np.array([(b**2).sum() for b in bands]) + 1e-6)
        return (levels - levels.mean()) / levels.std()

    shapes = np.stack([spectrum(kind) for kind in KINDS])
    alike = shapes @ shapes.T / shapes.shape[1]
    assert alike[~np.eye(len(alike), dtype=bool)].max() < 0.985


def test_a_phrase_starts_at_once_stays_in_its_interval_and_in_key():
    music = sound.Music(root=60, tempo=100, order=(0, 1, 2, 3))
    for name, kind in KINDS.items():
        for start_s, end_s in ((0.0, 6.0), (3.3, 3.35), (1.0, 1.4)):
            notes = kind.style.notes(music, start_s, end_s, np.random.default_rng(0))
            assert notes[0].start_s == start_s, name
            assert all(start_s <= n.start_s < n.start_s + n.length_s <= end_s + 1e-9 for n in notes), name
    scale = {(60 + step) % 12 for chord in sound.CHORDS for step in chord} | {(60 + s) % 12 for s in sound.PENTATONIC}
    assert all(
        n.pitch % 12 in scale
        for kind in KINDS.values()
        for n in kind.style.notes(music, 0, 20, np.random.default_rng(1))
    )


def test_many_loud_performers_do_not_clip():
    scene = small(*(Performer(kind, 0.5, loudness=0.5) for kind in KINDS))
    assert np.abs(Stage(scene).sound(rate_hz=8000)).max() <= 0.9701


# --------------------------------------------------------------------------------------------------------- scenes


def test_events_tell_seen_and_heard_apart():
    scene = small(Performer("bell", 0.1, seen=((0, 1),), heard=((0.5, 9),)), Performer("drum", 0.9, seen=(), heard=()))
    assert [(e.kind, e.sense, e.start_s, e.end_s) for e in scene.events()] == [
        ("bell", "visual", 0.0, 1.0),
        ("bell", "audio", 0.5, 2.0),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "kazoo"}, "unknown kind 'kazoo'"),
        ({"place": 1.5}, "place and depth"),
        ({"size": 0}, "size above 0"),
        ({"seen": ((1, 1),)}, "positive length in bell.seen"),
        ({"heard": ((1, 2), (1.5, 1.8))}, "separate intervals of positive length in bell.heard"),
        ({"heard": ((-1, 2),)}, "bell.heard"),
    ],
)
def test_impossible_performers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small(Performer(**{"kind": "bell", "place": 0.5, **change}))


@pytest.mark.parametrize("change", [{"width": 161}, {"height": 8}, {"seconds": 0}, {"fps": 0}])
def test_impossible_scenes_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        small(**change)


def test_kinds_have_names_that_the_vocabularies_know():
    known = {"avqa": MUSIC_AVQA_ANSWERS, "ave": AVE_EVENTS, "avvp": AVVP_EVENTS}
    for name, kind in KINDS.items():
        assert kind.name == name
        assert AVSS_CLASSES[kind.label] == name
        assert all(label in known[task] for task, label in kind.names.items())
    for sample in quickstart._SAMPLES:
        able = [k for k in KINDS.values() if sample.vocabulary == "avss" or sample.vocabulary in k.names]
        assert len(able) >= sample.cast


# ---------------------------------------------------------------------------------------------------------- paint


def test_shapes():
    x, y = np.meshgrid(np.linspace(-2, 2, 41), np.linspace(2, -2, 41))
    assert np.allclose(disc(x, y, 1), np.hypot(x, y) - 1)
    assert box(np.array(3.0), np.array(0.0), 1, 1) == pytest.approx(2)
    assert box(np.array(4.0), np.array(5.0), 1, 1) == pytest.approx(5)
    assert box(np.array(0.0), np.array(0.0), 1, 2) == pytest.approx(-1)
    back = turn(*turn(x, y, 30, about=(0.5, 0.2)), -30, about=(0.5, 0.2))
    assert np.allclose(back, (x, y), atol=1e-6)
    assert np.allclose(repeat(np.array([-9.0, 0.4, 1.2, 5.0]), 1.0, -1, 2), [-8, 0.4, 0.2, 3])


def test_paint_covers_what_it_should():
    x, y = np.meshgrid(np.arange(20, dtype=np.float32), np.arange(20, dtype=np.float32)[::-1])
    canvas = Canvas(x, y, pixel=1.0)
    canvas.paint(disc(x - 10, y - 10, 5), (1, 0, 0))
    canvas.paint(disc(x - 10, y - 10, 2), (0, 0, 1), opacity=0.5)
    assert canvas.alpha.sum() == pytest.approx(np.pi * 25, rel=0.02)
    assert canvas.rgb[9, 10].tolist() == [0.5, 0, 0.5]
    canvas.paint(disc(x - 100, y, 2), (0, 1, 0))
    assert canvas.rgb[..., 1].max() == 0


# ---------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "media"
    path = write_quickstart_media(folder, seed=0)
    samples, truth = (json.loads((folder / name).read_text()) for name in ("samples.json", "truth.json"))
    assert path == folder / "samples.json"
    return folder, {s["task"]: s for s in samples}, {t["task"]: t for t in truth}, [s["task"] for s in samples]


def test_every_task_has_its_sample_with_the_fields_it_needs(media):
    folder, samples, truth, tasks = media
    assert tasks == TASKS
    assert list(truth) == TASKS
    for task, sample in samples.items():
        expected = {"video_path"} if task in [*TASKS[:3], "avcap"] else {"image_path"}
        expected |= {"audio_path"} if task != "avcap" else set()
        expected |= {"mask_path"} if task in ("s4", "ms3", "ref-avs", "avss") else set()
        expected |= {"avqa": {"question"}, "ref-avs": {"exp"}}.get(task, set())
        assert set(sample) == {"task", *expected}
        for key in expected & {"video_path", "image_path", "audio_path", "mask_path"}:
            assert (folder / sample[key]).stat().st_size > 1000, sample[key]
    assert {p.suffix for p in folder.rglob("*.*")} >= {".mp4", ".wav", ".jpg", ".png", ".json"}


def test_videos_decode_with_picture_and_sound(media):
    folder, samples, *_ = media
    for task in ("avqa", "ave", "avvp", "avcap"):
        with av.open(str(folder / samples[task]["video_path"])) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert container.streams.audio[0].codec_context.name == "aac"
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert len(frames) == 100
        assert frames[0].shape == (240, 320, 3)
        with av.open(str(folder / samples[task]["video_path"])) as container:
            wave = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], 1)
        assert wave.shape[0] == 2
        assert abs(wave.shape[1] / 44100 - 10) < 0.1
        assert np.abs(wave).max() > 0.05


def test_the_event_is_in_the_sound_of_the_video_and_in_its_own_file(media):
    folder, samples, truth, _ = media
    for key in ("video_path", "audio_path"):
        with av.open(str(folder / samples["ave"][key])) as container:
            wave = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], 1).mean(0)
        levels = np.array([np.sqrt((wave[k * 44100 + 4410 : (k + 1) * 44100 - 4410] ** 2).mean()) for k in range(10)])
        inside = np.zeros(10, bool)
        inside[truth["ave"]["start_s"] : truth["ave"]["end_s"]] = True
        assert levels[inside].min() > 20 * levels[~inside].max()
    assert truth["ave"]["event"] in AVE_EVENTS


def test_pictures_sounds_and_masks_of_the_single_image_tasks(media):
    folder, samples, truth, _ = media
    for task, seconds, rate_hz in (
        ("arig", 5, 16000),
        ("s4", 5, 16000),
        ("ms3", 5, 16000),
        ("ref-avs", 10, 48000),
        ("avss", 10, 48000),
    ):
        sample = samples[task]
        assert 0 <= int((folder / sample["image_path"]).stem) < seconds
        with Image.open(folder / sample["image_path"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (640, 480))
        wave, rate = soundfile.read(folder / sample["audio_path"])
        assert (wave.shape, rate) == ((seconds * rate_hz, 2), rate_hz)
    for task in ("s4", "ms3", "ref-avs"):
        with Image.open(folder / samples[task]["mask_path"]) as image:
            assert image.mode == "L"
            assert set(np.unique(np.asarray(image))) == {0, 255}
        assert 0.01 < read_mask(folder / samples[task]["mask_path"], size=224).mean() < 0.5
    labels = read_semantic_mask(folder / samples["avss"]["mask_path"], size=224)
    assert {AVSS_CLASSES[k] for k in np.unique(labels)} == {"background", *truth["avss"]["objects"]}
    with Image.open(folder / samples["avss"]["mask_path"]) as image:
        colours = {tuple(c) for c in np.asarray(image).reshape(-1, 3).tolist()}
    assert colours <= {tuple(c) for c in PALETTE.tolist()}
    x1, y1, x2, y2 = truth["arig"]["box"]
    assert 0 <= x1 < x2 <= 223
    assert 0 <= y1 < y2 <= 223


def test_no_kind_comes_again_before_all_that_fit_have_come_once():
    for seed in range(20):
        casts = quickstart._deal(np.random.default_rng(seed))
        assert all(len(set(cast)) == sample.cast for cast, sample in zip(casts, quickstart._SAMPLES))
        assert len({name for cast in casts for name in cast}) >= 17  # of 19 places


def test_sound_without_an_mp3_encoder_is_a_wav(tmp_path, monkeypatch):
    wave = np.zeros((4000, 2), np.float32)
    assert files.write_mp3(tmp_path / "a.mp3", wave, rate_hz=16000) == tmp_path / "a.mp3"
    monkeypatch.setattr(files.av, "codecs_available", set())
    assert files.write_mp3(tmp_path / "b.mp3", wave, rate_hz=16000) == tmp_path / "b.wav"
    assert soundfile.info(tmp_path / "b.wav").frames == 4000


def test_a_video_may_have_no_sound_but_needs_frames(tmp_path):
    files.write_video(tmp_path / "mute.mp4", np.zeros((3, 32, 48, 3), np.uint8), fps=5)
    with av.open(str(tmp_path / "mute.mp4")) as container:
        assert not container.streams.audio
        assert sum(1 for _ in container.decode(video=0)) == 3
    for shape in ((0, 32, 32, 3), (3, 31, 32, 3), (3, 32, 32)):
        with pytest.raises(ValueError, match="even H and W"):
            files.write_video(tmp_path / "bad.mp4", np.zeros(shape, np.uint8), fps=5)


def test_the_same_frames_and_sound_give_the_same_bytes(tmp_path):
    clip = Stage(small(Performer("violin", 0.2), Performer("bell", 0.8))).clip(rate_hz=44100)
    for name in ("a", "b"):
        files.write_video(tmp_path / f"{name}.mp4", clip.frames, fps=5, wave=clip.wave)
        files.write_mp3(tmp_path / f"{name}.mp3", clip.wave, rate_hz=44100)
    for suffix in (".mp4", ".mp3"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.slow
def test_the_same_seed_writes_the_same_files(media, tmp_path):
    folder, *_ = media
    write_quickstart_media(tmp_path, seed=0)
    for path in (p for p in folder.rglob("*.*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name
