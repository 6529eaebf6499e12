"""Annotations of boxes and masks: ARIG, AVSBench, Ref-AVS, LVIS."""

from __future__ import annotations

import pytest
from annotation_clips import JSON, files, good, read

from crab_jax.tasks import ALL
from tests import annotation_trees as trees
from tests.annotation_trees import put


@pytest.fixture
def root(tmp_path):
    return trees.write(tmp_path / "root")


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


def test_lvis(root):
    cow, cup = good(root, "pretrain-seg", "train")
    assert [(a.id, a.row.label) for a in cow.asks] == [("1", "cow"), ("4", "hat")]
    assert cow.asks[1].row.definition == "on a head"
    assert files(root, cow) == ["LVIS/train2017/000000391895.jpg", "LVIS/binary_mask/1.png", "LVIS/binary_mask/4.png"]
    assert cup.id == "000000000009"
