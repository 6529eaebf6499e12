"""From annotation files to clips: what each data set gives, and what bad annotations cost (specification 9.2)."""

from __future__ import annotations

import copy
import json
import pathlib

import pytest

from crab_jax.tasks import ALL, AudioVisualEvents, Event, Row, Wording, avqa, avvp
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.clips import AnnotationError, Ask, Clip, Reject
from crab_jax.tasks.entries import BadEntry, Entry
from tests import annotation_trees as trees
from tests.annotation_trees import put

EVERY = [(name, split) for name, spec in ALL.items() for split in spec.splits]
JSON = {
    ("avqa", "train"): ("data/music_avqa_data/valid_train_samples.json", trees.AVQA),
    ("ave", "test"): ("data/ave_data/test_samples.json", trees.AVE),
    ("avvp", "train"): ("data/avvp_data/train_samples.json", trees.AVVP),
    ("avvp", "test"): ("data/avvp_data/test_samples.json", trees.AVVP_TEST),
    ("arig", "train"): ("AVS/v1s_grounding_samples.json", trees.ARIG),
    ("s4", "train"): ("AVS/s4_samples.json", trees.AVS),
    ("ms3", "train"): ("AVS/ms3_samples.json", trees.AVS),
    ("avss", "train"): ("AVS/avss_samples.json", trees.AVS),
    ("avcap", "test"): ("valor/val_samples.json", trees.AVCAP[:1]),
    ("pretrain-image", "train"): ("video-llava/train_json/llava_image_.json", trees.LLAVA),
    ("pretrain-video", "train"): ("video-llava/train_json/valid_valley_.json", trees.VALLEY),
    ("pretrain-audio", "val"): ("AudioCaps/val.json", trees.AUDIOCAPS),
    ("pretrain-seg", "train"): ("LVIS/train_samples.json", trees.LVIS),
}


@pytest.fixture
def root(tmp_path):
    return trees.write(tmp_path / "root")


def read(root: pathlib.Path, name: str, split: str) -> tuple[list[Clip], list[Reject]]:
    found = list(ALL[name].clips(root, split))
    for item in found:
        assert (item.task, item.split) == (name, split)
    return [c for c in found if isinstance(c, Clip)], [r for r in found if isinstance(r, Reject)]


def good(root: pathlib.Path, name: str, split: str) -> list[Clip]:
    clips, rejects = read(root, name, split)
    assert not rejects
    return clips


def files(root: pathlib.Path, clip: Clip) -> list[str]:
    paths = (clip.video, *clip.pictures, clip.audio, *clip.masks)
    return [str(p.relative_to(root)) for p in paths if p is not None]


# ------------------------------------------------------------------------------------------------- all data sets


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


# ----------------------------------------------------------------------------------------------- one by one


def test_avqa(root):
    first, second = good(root, "avqa", "train")
    assert (first.id, first.frames, [a.id for a in first.asks]) == ("00000093", 10, ["7", "9"])
    assert second.asks[0].row.answer == "outdoor"
    assert second.asks[0].raw["type"] == ["Visual", "Location"]
    assert first.asks[1].row.label_text == "I look and listen. So the answer is <answer> yes </answer>."
    assert files(root, second) == ["music-avqa/video/00000200.mp4", "music-avqa/audio/00000200.mp3"]
    assert good(root, "avqa", "test")[0].asks[0].row.label_text == ""
    # A path of another machine counts as far as it exists below the root.
    assert str(first.audio) == "/elsewhere/music-avqa/audio/00000093.mp3"
    put(root / "music-avqa/audio/00000093.wav", b"")
    assert good(root, "avqa", "train")[0].audio == root / "music-avqa/audio/00000093.wav"
    put(root / "music-avqa/audio/00000093.mp3", b"")
    assert good(root, "avqa", "train")[0].audio == root / "music-avqa/audio/00000093.mp3"


def test_avqa_texts(root):
    (root / "music-avqa/converted_label/8.txt").unlink()
    put(root / "music-avqa/converted_label/9.txt", "The <audio> says <answer> yes </answer>.")
    clips, rejects = read(root, "avqa", "train")
    assert [a.id for c in clips for a in c.asks] == ["7"]
    assert [r.reason for r in rejects][1] == "no text music-avqa/converted_label/8.txt"
    assert "'<audio>'" in rejects[0].reason
    put(root / "music-avqa/converted_label/7.txt", b"\xef\xbb\xbfOne.\r\nTwo.\rSo <answer> two </answer>.\r\n")
    assert read(root, "avqa", "train")[0][0].asks[0].row.label_text == "One.\nTwo.\nSo <answer> two </answer>."
    put(root / "music-avqa/converted_label/7.txt", b"\xff")
    assert "not UTF-8" in read(root, "avqa", "train")[1][0].reason
    put(root / "music-avqa/converted_label/7.txt", " \n")
    assert "blank" in read(root, "avqa", "train")[1][0].reason


def test_avqa_of_the_original_files(root):
    entry = {
        "video_id": "00000093",
        "question_id": 7,
        "type": '["Audio", "Counting"]',
        "question_content": "How many <Object> are in the <LR>？",
        "templ_values": '["flutes", "left"]',
        "anser": "two",
    }
    (root / "data/music_avqa_data/valid_train_samples.json").unlink()
    put(root / "data/music_avqa_data/avqa-train.json", [entry, {**entry, "question_id": 8, "templ_values": "['a']"}])
    (clip,), (reject,) = read(root, "avqa", "train")
    assert clip.asks[0].row.question == "How many flutes are in the left?"
    assert clip.asks[0].row.answer == "two"
    assert (clip.video, clip.audio) == (root / "music-avqa/video/00000093.mp4", None)
    assert reject.reason == "field 'templ_values': no value for '<LR>?' of the question"
    real = put(root / "music-avqa/MUSIC-AVQA-videos-Real/00000093.mp4", b"")
    assert read(root, "avqa", "train")[0][0].video == real


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


@pytest.mark.parametrize(
    ("content", "values", "want"),
    [
        ("Is it loud？", "[]", "Is it loud?"),
        ("Is it loud", [], "Is it loud?"),
        ("Is  the <Object>? loud", "['flute', 'x']", "Is the flute loud?"),
    ],
)
def test_question_from_a_template(content, values, want):
    assert avqa.question(Entry({"question_content": content, "templ_values": values}, "x")) == want


def test_ave(root):
    first, second = good(root, "ave", "train")
    assert first.asks[0].row.events == (Event("Cat", 0, 1), Event("Bark", 2, 7))
    assert first.asks[0].raw == {"annotations": [trees.AVE[0], trees.AVE[2]]}
    assert second.asks[0].row.events == (Event("Violin, fiddle", 0, 10),)
    assert second.asks[0].raw == trees.AVE[1]
    assert files(root, first) == ["AVE_Dataset/AVE/aaa.mp4"]  # nobody took the sounds out
    put(root / "AVE_Dataset/audio_data/bbb.wav", b"")
    sounds = [c.audio.name for c in good(root, "ave", "test")]
    assert sounds == ["aaa.mp3", "bbb.wav"]


@pytest.mark.parametrize(
    ("times", "kept"),
    [((1, 3), False), ((2, 7), True), ((0, 10), False), ((3, 4), False), ((7, 9), True), ((0, 2), True)],
)
def test_ave_times_of_one_event_do_not_overlap(root, times, kept):
    second = {"vid": "aaa", "event": "bark", "start_time": times[0], "end_time": times[1]}
    put(root / "data/ave_data/test_samples.json", [*trees.AVE, second])
    clips, rejects = read(root, "ave", "test")
    assert [c.id for c in clips] == (["aaa", "bbb"] if kept else ["bbb"])
    if not kept:
        reason = (
            f"Bark, {times[0]} to {times[1]} s, overlaps 2 to 7 s of the same video; expected times of one event apart"
        )
        assert [(r.id, r.reason, r.source[-3:]) for r in rejects] == [("aaa", reason, "[3]")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event": "Moo"}, "field 'event': 'Moo' is not among the 28 names"),
        ({"start_time": 7, "end_time": 2}, "from 7 to 2 s runs backwards"),
        ({"start_time": 2.5}, "field 'start_time': expected a whole number, found the number 2.5"),
        ({"end_time": 11}, "from 2 to 11 s leaves the clip of 10 s"),
        ({"start_time": -1}, "from -1 to 7 s leaves the clip"),
        ({"start_time": 7}, "from 7 to 7 s holds no time"),
        ({"start_time": "soon"}, 'expected a whole number, found the string "soon"'),
        ({"end_time": True}, "expected a whole number, found true"),
        ({"vid": None}, "field 'vid' is missing; found 'vid', 'event', 'start_time', 'end_time'"),
        ({"vid": "a/b"}, "field 'vid': 'a/b' cannot be part of a file name"),
    ],
)
def test_ave_rejects(root, change, reason):
    put(root / "data/ave_data/test_samples.json", [{**trees.AVE[0], **change}, trees.AVE[1]])
    clips, (reject,) = read(root, "ave", "test")
    assert [c.id for c in clips] == ["bbb"]
    assert reason in reject.reason
    assert reject.source == "data/ave_data/test_samples.json[0]"


def test_avvp(root):
    (clip,) = good(root, "avvp", "train")  # the others have no label
    dogs = (Event("Dog", 0, 2), Event("Dog", 4, 6))
    assert ALL["avvp"].answer(clip.asks[0].row) == AudioVisualEvents(audio=dogs, visual=(Event("Dog", 0, 10),))
    assert "<audio_event>Dog,(0 2) (4 6)</audio_event>" in ALL["avvp"].target(clip.asks[0].row)


def test_avvp_truth_comes_from_the_tables(root):
    first, second = good(root, "avvp", "test")
    answer = AudioVisualEvents((Event("Speech", 0, 2), Event("Dog", 4, 6)), (Event("Frying_(food)", 0, 10),))
    assert ALL["avvp"].answer(first.asks[0].row) == answer
    assert second.asks[0].row.visual_events == (Event("Car", 1, 2),)  # in no table
    folder = root / "data/avvp_data"
    (folder / "AVVP_eval_audio.csv").unlink()
    with pytest.raises(AnnotationError, match=r"AVVP_eval_audio.csv: no such file, but AVVP_eval_visual.csv is there"):
        list(ALL["avvp"].clips(root, "test"))
    (folder / "AVVP_eval_visual.csv").unlink()
    assert good(root, "avvp", "test")[0].asks[0].row.audio_events == (Event("Speech", 0, 10),)


@pytest.mark.parametrize(
    ("line", "reason", "left"),
    [
        ("t1\t0\t1\tMoo", "field 'event_labels': 'Moo' is not among the 25 names", ["t2"]),
        ("t1\t0.5\t1\tDog", "field 'onset': expected a whole number", ["t2"]),
        ("t1\t8\t12\tDog", "from 8 to 12 s leaves the clip", ["t2"]),
        ("t1\t8\t3\tDog", "from 8 to 3 s runs backwards", ["t2"]),
        ("t1\t8", "expected 4 columns (filename, onset, offset, event_labels), found 2: 't1\\t8'", ["t2"]),
        ('"t1\t8\t9\tDog', "unexpected end of data", ["t2"]),
        (b"t1\t\xff\t9\tDog", "not UTF-8 at byte 3 of the line", ["t2"]),
        ("t1.mp4\t4\t6", "found 3: 't1.mp4\\t4\\t6'; the video is left out", ["t2"]),
        ("t1\t4\t6\tCar\t", "expected 4 columns", ["t2"]),
        ('t1\t4\t6\t"Car', "unexpected end of data", ["t2"]),
        ("t1,4,6,Car", "expected 4 columns", ["t2"]),
        ("\t4\t6\tCar", "field 'filename' is blank", ["t1", "t2"]),
        (b"t1\xff\t4\t6\tCar", "not UTF-8 at byte 2 of the line", ["t1", "t2"]),
        ("t1\t4\t6\tDog", "Dog, 4 to 6 s, stands here twice; it counts once", ["t1", "t2"]),
    ],
)
def test_a_bad_line_of_a_table(root, line, reason, left):
    """It costs its video, of which not all would be known; the lines behind it are read."""
    path = root / "data/avvp_data/AVVP_eval_audio.csv"
    head, *lines = path.read_bytes().splitlines(keepends=True)
    bad = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\xef\xbb\xbf" + head + bad + b"\r\n\n" + b"".join(lines))
    clips, (reject,) = read(root, "avvp", "test")
    assert [c.id for c in clips] == left
    assert reason in reject.reason
    place = 4 if "twice" in reason else 2
    assert reject.source == f"data/avvp_data/AVVP_eval_audio.csv:{place}"
    if "t1" in left:
        assert clips[0].asks[0].row.audio_events == (Event("Speech", 0, 2), Event("Dog", 4, 6))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_blank_lines_of_a_table(root, ends):
    want = good(root, "avvp", "test")
    path = root / "data/avvp_data/AVVP_eval_audio.csv"
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + f"\n  \n{text}\n \t\n".replace("\n", ends).encode())
    assert good(root, "avvp", "test") == want
    path.write_text("\n" + text.replace("\t", ","))
    assert good(root, "avvp", "test") == want


@pytest.mark.parametrize("kind", ["audio", "visual"])
@pytest.mark.parametrize("content", ["", "\n", "filename\tons", trees.CSV_HEAD + "t1\t4"])
def test_a_table_without_a_usable_line_is_an_error(root, kind, content):
    """Its videos would be said to be silent, or dark."""
    path = put(root / f"data/avvp_data/AVVP_eval_{kind}.csv", content)
    with pytest.raises(AnnotationError) as error:
        list(ALL["avvp"].clips(root, "test"))
    message = str(error.value)
    assert f"{path}: expected a line for each event (filename, onset, offset, event_labels), found none" in message
    assert ALL["avvp"].layout.strip().splitlines()[2] in message
    assert (f"AVVP_eval_{kind}.csv:2: expected 4 columns" in message) == content.endswith("t1\t4")


def test_a_table_with_names_alone_says_that_nobody_is_heard(root):
    put(root / "data/avvp_data/AVVP_eval_audio.csv", trees.CSV_HEAD)
    clips, rejects = read(root, "avvp", "test")
    assert not rejects
    assert clips
    assert not any(c.asks[0].row.audio_events for c in clips)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ("<audio>Moo,(0 1)</audio>", "'Moo' is not among the 25 events"),
        ("<audio>Dog,(0 1.5)</audio>", "(0 1.5) is not two whole seconds"),
        ("<audio>Dog,(0 1 2)</audio>", "(0 1 2) is not two whole seconds"),
        ("<audio>Dog,(5 1)</audio>", "from 5 to 1 s runs backwards"),
        ("<audio>Dog,(5 11)</audio>", "field 'label', Dog: from 5 to 11 s leaves the clip of 10 s"),
        ("<audio>Dog,(5 5)</audio>", "holds no time"),
        ("<audio>Dog,(5 6) (1 2)</audio>", "(1 2) stands behind (5 6); expected ranges in order of time"),
        ("<audio>Dog</audio>", "Dog: no time range"),
        ("<audio>Dog,(0 1)</audio> <visual>Cat,(0 1)", "<visual> is not closed"),
        ("A dog barks for (0 5) s.", "no <audio_event> or <visual_event> tag"),
    ],
)
def test_stored_events_are_read_strictly(tags, reason):
    with pytest.raises(BadEntry) as error:
        avvp.stored_events(Entry({"label": tags}, "x"), "label")
    assert reason in str(error.value)


def test_stored_events():
    text = "In (3.5 s) a <visual>Frying_(food),(0 2) (2 5) Dog,(1 2)</visual>"
    found = avvp.stored_events(Entry({"label": text}, "x"), "label")
    assert found.visual == (Event("Frying_(food)", 0, 2), Event("Frying_(food)", 2, 5), Event("Dog", 1, 2))


def test_arig(root):
    (clip,) = good(root, "arig", "train")  # in the other nothing sounds
    (ask,) = clip.asks
    assert (clip.id, ask.row.second, ask.row.label, ask.row.box) == ("u1_3", 3, "a dog", (10, 20, 100, 224))
    assert files(root, clip) == ["AVS/v1s/u1/frames/3.jpg", "AVS/v1s/u1/audio.wav"]
    assert ALL["arig"].answer(ask.row).y2 == 223


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"top_left": [101, 20]}, "box (101,20) (100,224): expected 0 … 223, the upper left corner first"),
        ({"bottom_right": [100, 225]}, "expected 0 … 223"),
        ({"top_left": [1.5, 2]}, "field 'top_left', x: expected a whole number, found the number 1.5"),
        ({"top_left": [1]}, "field 'top_left': expected [x, y], found a list"),
        ({"frame_path": "AVS/v1s/u1/frames/last.jpg"}, "the name of frame_path, its second: expected a whole number"),
        ({"frame_path": "AVS/v1s/u1/frames/5.jpg"}, "the name of frame_path: from 5 to 6 s leaves the clip of 5 s"),
        ({"a_obj": " "}, "field 'a_obj' is blank"),
    ],
)
def test_arig_rejects(root, change, reason):
    put(root / "AVS/v1s_grounding_samples.json", [{**trees.ARIG[0], **change}])
    clips, (reject,) = read(root, "arig", "train")
    assert not clips
    assert reason in reject.reason


@pytest.mark.parametrize("name", ["s4", "ms3", "avss", "arig"])
def test_an_unknown_split_is_reported_once(root, name):
    place, entries = JSON[name, "train"]
    put(root / place, [*entries, {**entries[0], "uid": "u9", "split": "trian"}])
    counts = [len(read(root, name, split)[1]) for split in ("train", "val", "test")]
    assert counts == [1, 0, 0]
    assert "expected one of train, val, test, found 'trian'" in read(root, name, "train")[1][0].reason


def test_avsbench(root):
    def shape(name, split):
        (clip,) = good(root, name, split)
        groups = {ask.group for ask in clip.asks}
        assert [a.row.second for a in clip.asks] == [a.picture for a in clip.asks] == [a.mask for a in clip.asks]
        return clip.id, len(clip.pictures), len(clip.masks), [a.picture for a in clip.asks], groups

    five, ten = [0, 1, 2, 3, 4], list(range(10))
    assert shape("s4", "train") == ("u1", 5, 1, [0], {""})
    assert shape("s4", "test") == ("u2", 5, 5, five, {""})
    assert shape("ms3", "train") == ("u1", 5, 5, five, {""})
    assert shape("ms3", "val") == ("u3", 5, 5, five, {""})
    assert shape("avss", "train") == ("u1", 10, 10, ten, {"u1"})
    first = [files(root, good(root, name, "train")[0]) for name in ("s4", "ms3", "avss")]
    assert first[0][-1] == "AVS/v1s/u1/labels_semantic/0.png"
    assert first[1][-2:] == ["AVS/v1m/u1/labels_semantic/3.png", "AVS/v1m/u1/labels_semantic/4.png"]
    assert first[2][9:12] == ["AVS/v2/u1/frames/9.jpg", "AVS/v2/u1/audio.wav", "AVS/v2/u1/labels_rgb/0.png"]


def test_ref_avs(root):
    (clip,) = good(root, "ref-avs", "train")
    assert (clip.id, len(clip.asks), len(clip.masks)) == ("v_0_10", 30, 20)
    groups = list(dict.fromkeys(a.group for a in clip.asks))
    assert groups == ["v_0_10_dog_1", "v_0_10_dog_2", "v_0_10_piano_1"]
    ask = clip.asks[13]
    assert (ask.id, ask.row.exp, ask.row.label) == ("v_0_10_dog_2_3", "The animal, on the left", "dog")
    assert clip.masks[ask.mask] == root / "ref-avs/REFAVS/gt_mask/v_0_10/fid_1/00003.png"
    assert clip.masks[clip.asks[-1].mask] == root / "ref-avs/REFAVS/gt_mask/v_0_10/fid_2/00009.png"
    assert files(root, clip)[9:11] == [f"ref-avs/REFAVS/media/v_0_10/{p}" for p in ("frames/9.jpg", "audio.wav")]
    (null,) = good(root, "ref-avs", "test_n")
    assert not null.masks
    assert {a.mask for a in null.asks} == {None}
    assert null.asks[0].row.label == "null"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("v,v_0_10_cat_1,train,1", "expected 5 columns (vid, uid, split, fid, exp), found 4"),
        ("v,v_0_10_cat_1,train,1,the cat, loud", "expected 5 columns (vid, uid, split, fid, exp), found 6"),
        ('v,v_0_10_cat_1,train,1,"the cat', "unexpected end of data"),
        ("v,cat_1,train,1,the cat", "field 'uid': expected <video>_<object>_<number>, found 'cat_1'"),
        ("v,v_0_10_cat_1,trian,1,the cat", "expected one of train, val, test_s, test_u, test_n, found 'trian'"),
        ("v,v_0_10_cat_1,train,a/b,the cat", "field 'fid': 'a/b' cannot be part"),
        ("v,v_0_10_cat_1,train,1, ", "field 'exp' is blank"),
        ("v,v_0_10_cat_1,train,1,the <mask_0>", "exp: '<mask_0>' at character 4 has a meaning"),
        ("v,v_0_10_dog_1,train,1,The dog barking loudest", "the same was there before"),
    ],
)
def test_bad_lines_of_ref_avs(root, line, reason):
    before = good(root, "ref-avs", "train")
    lines = trees.REF_AVS.splitlines()
    put(root / "ref-avs/REFAVS/metadata.csv", "\n".join([*lines[:3], line, *lines[3:]]))
    clips, (reject,) = read(root, "ref-avs", "train")
    assert [c.asks for c in clips][:1] == [c.asks for c in before] or "before" in reject.reason
    assert reason in reject.reason
    assert reject.source == "ref-avs/REFAVS/metadata.csv:4"


def test_ref_avs_tables_of_other_make(root):
    """Without column names, in another order, and with one name for two expressions."""
    want = [c.asks[0].row for c in good(root, "ref-avs", "train")]
    path = root / "ref-avs/REFAVS/metadata.csv"
    put(path, "\n".join(trees.REF_AVS.splitlines()[1:]))
    assert [c.asks[0].row for c in good(root, "ref-avs", "train")] == want
    put(path, "exp,more,vid,uid,split,fid\nThe dog barking loudest,x,v,v_0_10_dog_1,train,1\n")
    assert [c.asks[0].row for c in good(root, "ref-avs", "train")] == want
    put(path, "v,v_0_10_dog_1,train,1,one\nv,v_0_10_dog_1,train,1,two\n")
    (clip,) = good(root, "ref-avs", "train")
    assert (clip.asks[10].id, clip.asks[10].group, len(clip.masks)) == ("v_0_10_dog_1-2_0", "v_0_10_dog_1-2", 10)


def test_avcap(root):
    clips = good(root, "avcap", "train")
    assert [(c.id, c.asks[0].row.caption) for c in clips] == [("c1", "A dog barks."), ("c2", "Rain\nfalls")]
    assert files(root, clips[0]) == ["valor/video_data/c1.mp4"]
    (root / "valor/audio_data").mkdir()
    assert files(root, good(root, "avcap", "test")[0]) == ["valor/video_data/c1.mp4", "valor/audio_data/c1.mp3"]


def test_pretraining_captions(root):
    first, second = good(root, "pretrain-image", "train")
    assert (first.id, first.asks[0].id) == ("llava_image__00453__004539375", "004539375")
    assert files(root, first) == ["video-llava/llava_image/00453/004539375.jpg"]
    assert first.asks[0].row.question == "Render a clear summary."
    assert ALL["pretrain-image"].target(first.asks[0].row) == "select luxury furniture."
    assert ALL["pretrain-image"].target(second.asks[0].row) == "A cat!"
    (clip,) = good(root, "pretrain-video", "train")
    assert (clip.frames, clip.audio, clip.asks[0].picture) == (8, None, None)
    assert files(root, clip) == ["video-llava/valley/v7.mp4"]


def test_two_conversations_about_one_picture_share_it(root):
    again = copy.deepcopy(trees.LLAVA[1])
    again["conversations"][0]["value"] = "<image>\nWhere is it?"
    put(root / "video-llava/train_json/llava_image_.json", [trees.LLAVA[1], again])
    (clip,) = good(root, "pretrain-image", "train")
    assert [(a.id, a.row.question) for a in clip.asks] == [("7", "What is it?"), ("7-2", "Where is it?")]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ("hello", "expected a list of two turns or more, found the string"),
        ([{"value": "a"}], "expected a list of two turns or more"),
        ([{"value": "<image>"}, {"value": "a"}], "question: missing or blank"),
        ([{"value": "a"}, {"from": "gpt"}], "expected {'value': '…'} as turn 1, found an object"),
        ([{"value": "a <video>"}, {"value": "a"}], "question: '<video>' at character 2"),
    ],
)
def test_bad_conversations(root, turns, reason):
    put(root / "video-llava/train_json/llava_image_.json", [{**trees.LLAVA[0], "conversations": turns}])
    clips, (reject,) = read(root, "pretrain-image", "train")
    assert not clips
    assert reason in reject.reason


def test_audiocaps(root):
    assert [c.id for c in good(root, "pretrain-audio", "train")] == ["91139"]
    clips = good(root, "pretrain-audio", "test")
    assert [c.id for c in clips] == ["12347", "91139"]
    assert files(root, clips[1]) == ["AudioCaps/data/91139.wav"]


def test_lvis(root):
    cow, cup = good(root, "pretrain-seg", "train")
    assert [(a.id, a.row.label) for a in cow.asks] == [("1", "cow"), ("4", "hat")]
    assert cow.asks[1].row.definition == "on a head"
    assert files(root, cow) == ["LVIS/train2017/000000391895.jpg", "LVIS/binary_mask/1.png", "LVIS/binary_mask/4.png"]
    assert cup.id == "000000000009"


def test_the_documentation_shows_every_layout():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, spec in ALL.items():
        assert spec.layout in text, name
        assert f"crab data build {name} --root" in text
