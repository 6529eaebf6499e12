"""From annotation files to clips: what holds for every data set, and what bad annotations cost (specification 9.2)."""

from __future__ import annotations

import copy
import json
import pathlib

import pytest
from annotation_clips import JSON, good, read

from crab_jax.tasks import ALL, Row, Wording
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.clips import AnnotationError, Ask, Clip
from tests import annotation_trees as trees
from tests.annotation_trees import put

EVERY = [(name, split) for name, spec in ALL.items() for split in spec.splits]


@pytest.fixture
def root(tmp_path):
    return trees.write(tmp_path / "root")


@pytest.mark.parametrize(("name", "split"), EVERY)
def test_every_clip_can_be_asked_about(root, name, split):
    spec = ALL[name]
    clips = good(root, name, split)
    assert clips == good(root, name, split)
    assert bool(clips) == ((name, split) not in {("ref-avs", "val"), ("ref-avs", "test_u"), ("arig", "val")})
    asks = [ask for clip in clips for ask in clip.asks]
    assert len({clip.id for clip in clips}) == len(clips)
    assert len({ask.id for ask in asks}) == len(asks)
    for clip in clips:
        assert (clip.video is None) == (clip.frames == 0)
        assert len(set(clip.masks)) == len(clip.masks)
        assert {ask.mask for ask in clip.asks} == (set(range(len(clip.masks))) or {None})
        media = spec.media[Wording.RELEASE_TRAIN]
        assert media.frames in (0, clip.frames or len(clip.pictures))
        for ask in clip.asks:
            json.dumps(ask.raw, allow_nan=False)
            assert spec.answer(ask.row)
            for wording in Wording:
                assert spec.prompt(ask.row, wording)
                assert spec.target(ask.row, wording)
                assert spec.media[wording].needs_second <= (ask.row.second is not None)
                assert spec.media[wording].image <= (ask.picture is not None)
            assert ask.picture is None or clip.pictures[ask.picture]


@pytest.mark.parametrize("name", ALL)
def test_missing_annotations_name_path_and_layout(root, tmp_path, name):
    spec = ALL[name]
    for split in spec.splits:
        for place, hint in ((tmp_path / "empty", ""), (root / "empty", f"below {root}; should that be the root?")):
            place.mkdir(exist_ok=True)
            with pytest.raises(AnnotationError) as error:
                list(spec.clips(place, split))
            message = str(error.value)
            assert str(place) in message
            assert hint in message
            for line in spec.layout.strip().splitlines():
                assert line in message
    with pytest.raises(AnnotationError, match="no such folder"):
        list(spec.clips(tmp_path / "nowhere", spec.splits[0]))
    with pytest.raises(AnnotationError, match=rf"{name}: no split 'all'; there are {spec.splits[0]}"):
        list(spec.clips(root, "all"))


def test_a_root_that_is_too_high_is_told(root):
    with pytest.raises(AnnotationError, match=f"below {root}; should that be the root"):
        list(ALL["s4"].clips(root.parent, "train"))


@pytest.mark.parametrize(("name", "split"), JSON)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"vid": "a",}\n]', "line 1, column"),
        (
            '[\n  {"vid": "a"}\n  {"vid": "b"}\n]',
            'line 3, column 3: Expecting \',\' delimiter\n    {"vid": "b"}\n    ^',
        ),
        (b"[\xff]", "not UTF-8 at byte 1"),
        ("{}", "expected a JSON list of annotations|expected a list of annotations, found an object"),
        ("", "line 1, column 1"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "4300 digits"),
    ],
)
def test_an_unreadable_file_is_an_error(root, name, split, content, reason):
    path = put(root / JSON[name, split][0], content)
    with pytest.raises(AnnotationError) as error:
        list(ALL[name].clips(root, split))
    assert str(path) in str(error.value)
    assert any(r in str(error.value) for r in reason.split("|"))


TEXTS = ("", "  ", "a\ud800", "\0", ".", "/", "..", "../x", "x" * 255, "x" * 5000, "x/" * 1999, "<video>", "</s>")
TEXTS += ("{[]: 1}", "{{}}", "['\\ud800']")
ODD = (None, [], {}, True, 1e400, -1, 1.5, 10**30, 10**400, "1e999", *TEXTS)


@pytest.mark.parametrize(("name", "split"), JSON)
def test_one_bad_field_costs_one_annotation(root, name, split):
    """Nothing raises, whatever stands in a field; what the other annotations give stays the same."""
    place, entries = JSON[name, split]
    extra = [7, "text", None, [], {}]
    untouched = good(root, name, split)
    for field in [*entries[0], None]:
        for odd in ODD:
            changed = copy.deepcopy(entries)
            if field is not None:
                changed[0][field] = odd
            put(root / place, [*extra, *changed])
            clips, rejects = read(root, name, split)
            assert {f"{place}[{i}]" for i in range(4)} <= {r.source for r in rejects}
            assert all(r.reason for r in rejects)
            mine = f"{place}[{len(extra)}]"
            assert {r.source for r in rejects} <= {mine, *(f"{place}[{i}]" for i in range(len(extra)))}
            kept = {clip.id: clip.asks for clip in clips}
            assert all(kept[clip.id] == clip.asks for clip in untouched if clip.source != f"{place}[0]")


@pytest.mark.parametrize(("name", "split"), JSON)
def test_the_same_annotation_twice_counts_once(root, name, split):
    place, entries = JSON[name, split]
    once = good(root, name, split)
    put(root / place, [*entries, *copy.deepcopy(entries)])
    clips, rejects = read(root, name, split)
    assert [c.asks for c in clips] == [c.asks for c in once]
    assert len(rejects) >= len(once)
    assert all("already" in r.reason or "twice" in r.reason or "before" in r.reason for r in rejects)


def test_annotations_without_the_folder_data_are_found(root):
    for name, folder in (("avqa", "music_avqa_data"), ("ave", "ave_data"), ("avvp", "avvp_data")):
        for split in ALL[name].splits:
            before = good(root, name, split)
            (root / "data" / folder).rename(root / folder)
            after = good(root, name, split)
            (root / folder).rename(root / "data" / folder)
            assert [c.asks for c in after] == [c.asks for c in before]
            assert after[0].source.startswith(f"{folder}/")


@pytest.mark.parametrize(
    ("name", "field", "value", "reason"),
    [
        ("pretrain-image", "image", "/", "field 'image': expected the path of a file, found '/'"),
        ("pretrain-image", "image", "a/..", "field 'image': expected the path of a file, found 'a/..'"),
        pytest.param("pretrain-image", "image", "x/" * 1999, "File name too long", id="long path"),
        pytest.param("pretrain-seg", "area", 10**400, "field 'area': expected a number", id="many digits"),
        ("pretrain-seg", "area", "1e999", "field 'area': expected a number, found the string"),
        ("avqa", "type", "{[]: 1}", "field 'type': expected a list of strings, found '{[]: 1}'"),
        ("avqa", "type", "['\\ud800']", r"field 'type': '\ud800' cannot be written as UTF-8"),
    ],
)
def test_odd_fields_are_named(tmp_path, name, field, value, reason):
    root = trees.write(tmp_path / ("r" * 120))
    place, entries = JSON[name, "train"]
    put(root / place, [{**entries[0], field: value}])
    clips, (reject,) = read(root, name, "train")
    assert not clips
    assert reason in reject.reason


def test_a_long_name_is_no_error(root):
    entry = {**trees.AVQA[0], "audio_path": "/elsewhere/" + "x" * 255}
    put(root / "data/music_avqa_data/test_samples.json", [entry])
    assert good(root, "avqa", "test")[0].audio == pathlib.Path(entry["audio_path"])
    put(root / ("x" * 255), b"")
    assert good(root, "avqa", "test")[0].audio == root / ("x" * 255)


@pytest.mark.parametrize("error", [OSError("full"), OverflowError("large"), TypeError("odd"), ValueError("bad")])
@pytest.mark.parametrize("part", ["key", "media", "asks"])
def test_whatever_an_annotation_raises_costs_only_itself(root, part, error):
    source = Source(ALL["avcap"], root, "train")

    def fails(this, result):
        def call(*arguments):
            if part == this and "c1" in str(arguments):
                raise error
            return result(arguments)

        return call

    found = list(
        source.clips(
            source.json_entries("valor/train_samples.json"),
            key=fails("key", lambda a: a[0].name("video_id")),
            media=fails("media", lambda a: {"video": root / a[0], "frames": 10}),
            asks=fails("asks", lambda a: [Ask(id=a[0], row=Row(caption="x"))]),
        )
    )
    reject, clip = sorted(found, key=lambda item: isinstance(item, Clip))
    assert (reject.source, reject.reason) == ("valor/train_samples.json[0]", f"{type(error).__name__}: {error}")
    assert clip.id == "c2"


def test_the_documentation_shows_every_layout():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, spec in ALL.items():
        assert spec.layout in text, name
        assert f"crab data build {name} --root" in text
