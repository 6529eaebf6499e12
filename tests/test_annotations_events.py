"""Annotations of events and their times: AVE, and AVVP with its tables."""

from __future__ import annotations

import pytest
from annotation_clips import files, good, read

from crab_jax.tasks import ALL, AudioVisualEvents, Event, avvp
from crab_jax.tasks.clips import AnnotationError
from crab_jax.tasks.entries import BadEntry, Entry
from tests import annotation_trees as trees
from tests.annotation_trees import put


@pytest.fixture
def root(tmp_path):
    return trees.write(tmp_path / "root")


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
