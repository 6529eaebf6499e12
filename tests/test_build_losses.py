"""Building data sets of which some cannot be used: what is lost, what is said about it, and when it is too much."""

import dataclasses
import os
import re

import numpy as np
import pytest

from crab_jax.tasks.clips import Clip, Reject
from data_pipelines.build import BuildError, build
from data_pipelines.command import told
from data_pipelines.decode import read_mask
from data_pipelines.records import SCHEMA, open_shards
from tests.build_clips import EXACT, ask, ave_clips, rejects, spec_of, write_media
from tests.media_files import cut, tone, write_video


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def broken_root(media, tmp_path):
    """Clip 0 is fine, 1 has no video, 2 half of one, 3 a mask that is no image, 4 lacks one of two masks."""
    root = tmp_path / "root"
    root.mkdir()
    for name in ("0.mp4", "0.png", "mask0.png", "0.wav"):
        os.link(media / name, root / name)
    write_video(root / "2.mp4", frames=30, sound=tone(3, 44100))
    cut(root / "2.mp4", 0.5)
    (root / "3.png").write_text("not found")
    return root


def broken_clips(root, split):
    for i in range(3):
        where = f"{root}/a.json, entry {i}"
        video = root / f"{i}.mp4"
        yield Clip(task="ave", split=split, id=f"v{i}", video=video, frames=4, asks=(ask(f"q{i}"),), source=where)
    yield Reject(task="ave", split=split, id="x", source=f"{root}/a.json, entry 3", reason="expected a dict, found 7")


def test_losses_are_counted_and_listed(broken_root, tmp_path):
    options = dataclasses.replace(EXACT, max_rejects=0.5)
    built = build(spec_of("ave", broken_clips), root=broken_root, out=tmp_path, options=options)
    count = built.counts["train"]
    assert (count.clips, count.records, count.annotations, count.missing, count.media) == (3, 1, 1, 1, 1)
    annotation, missing, damaged = rejects(built.folder)
    assert annotation == {
        "split": "train", "id": "x", "kind": "annotation", "reason": "expected a dict, found 7",
        "source": "a.json, entry 3",
    }  # fmt: skip
    assert missing == {
        "split": "train", "id": "v1", "kind": "missing", "reason": "expected 1.mp4, found no such file",
        "source": "a.json, entry 1", "examples": 1,
    }  # fmt: skip
    assert (damaged["id"], damaged["kind"]) == ("v2", "media")
    assert damaged["reason"].startswith("2.mp4: expected a video, found")
    assert [r.clip_id for r in open_shards(tmp_path, "ave", "train")] == ["v0"]


def test_a_mask_loses_only_what_asks_about_it(broken_root, tmp_path):
    def clips(root, split):
        masks = (root / "gone.png", root / "3.png", root / "mask0.png")
        asks = (
            *(ask(f"q{k}", picture=0, mask=k) for k in range(3)),
            ask("q3", picture=1, mask=2),
            ask("q4", picture=0),
        )
        pictures, sound = (root / "0.png",), root / "0.wav"
        yield Clip(task="s4", split=split, id="a", pictures=pictures, audio=sound, masks=masks, asks=asks, source="a")

    options = dataclasses.replace(EXACT, max_rejects=1)
    built = build(spec_of("s4", clips), root=broken_root, out=tmp_path, options=options)
    (record,) = open_shards(tmp_path, "s4", "train")
    assert [(a.id, a.mask) for a in record.asks] == [("q2", 0), ("q4", None)]
    np.testing.assert_array_equal(record.mask(0), read_mask(broken_root / "mask0.png", size=32))
    assert [(r["id"], r["kind"]) for r in rejects(built.folder)] == [
        ("q0", "missing"),
        ("q1", "media"),
        ("q3", "media"),
    ]
    assert "at least 2 pictures, found 1" in rejects(built.folder)[2]["reason"]


def test_too_many_rejects_stop_and_mended_files_are_read_again(broken_root, media, tmp_path):
    spec, options = spec_of("ave", broken_clips), dataclasses.replace(EXACT, max_rejects=0.25)
    with pytest.raises(BuildError, match=r"at most 25.0% of 4 examples.*found 2 so far.*--max-rejects"):
        build(spec, root=broken_root, out=tmp_path, options=options)
    listed = (tmp_path / "ave" / f"{SCHEMA}.building" / "rejects.jsonl").read_text()
    assert '"v2"' in listed
    (broken_root / "2.mp4").unlink()
    os.link(media / "1.mp4", broken_root / "2.mp4")
    built = build(spec, root=broken_root, out=tmp_path, options=options)
    assert built.counts["train"].records == 2


def test_media_that_are_all_missing(tmp_path):
    with pytest.raises(BuildError, match=r"(?s)ave/train: expected usable.*found none; the first: .*0.mp4.*HERE.json"):
        build(spec_of("ave", ave_clips(3)), root=tmp_path, out=tmp_path / "out", options=EXACT)


def test_a_split_that_is_empty_is_left_out_unless_asked_for(media, tmp_path):
    rejected = Reject(task="ave", split="val", id="x", source=f"{media}/a.json, entry 3", reason="expected a dict")

    def clips(root, split):
        return iter([rejected]) if split == "val" else ave_clips(1)(root, split)

    spec = spec_of("ave", clips, splits=("val", "train"))
    for again in (False, True):
        built = build(spec, root=media, out=tmp_path, options=EXACT)
        assert (list(built.counts), built.empty, built.was_there) == (["train"], ("val",), again)
        assert re.search(r"\n  val +nothing: the annotations name no example", told("ave", built))
    (line,) = rejects(built.folder)
    assert (line["split"], line["reason"]) == ("val", "expected a dict")
    asked = dataclasses.replace(EXACT, splits=("val",))
    with pytest.raises(BuildError, match="ave/val: expected usable examples"):
        build(spec, root=media, out=tmp_path / "other", options=asked)


def test_sound_too_short_for_the_task(media, tmp_path):
    clips = ave_clips(2)

    def avqa(root, split):
        for clip in clips(root, split):
            yield dataclasses.replace(clip, task="avqa")

    with pytest.raises(BuildError, match=r"at least 5.250 s of sound"):
        build(spec_of("avqa", avqa), root=media, out=tmp_path, options=dataclasses.replace(EXACT, max_rejects=1))


def test_missing_sound_is_taken_from_the_video(media, tmp_path):
    def clips(root, split):
        video, gone = root / "0.mp4", root / "gone.mp3"
        yield Clip(task="ave", split=split, id="a", video=video, frames=4, audio=gone, asks=(ask("q"),), source="")

    build(spec_of("ave", clips), root=media, out=tmp_path, options=EXACT)
    (record,) = open_shards(tmp_path, "ave", "train")
    assert record.provenance["audio"]["path"] == "0.mp4"


def test_clips_with_the_same_id(media, tmp_path):
    def clips(root, split):
        for clip in ave_clips(2)(root, split):
            yield dataclasses.replace(clip, id="same")

    options = dataclasses.replace(EXACT, max_rejects=0.4)
    built = build(spec_of("ave", clips), root=media, out=tmp_path, options=options)
    assert built.counts["train"].records == 1
    assert "once, found 'same' again" in rejects(built.folder)[0]["reason"]
