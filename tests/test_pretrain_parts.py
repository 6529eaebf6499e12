"""The parts of crab-mini that come trained: what they are shown, and that a stage can start from what is written."""

import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import mini
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.model import CrabConfig, abstract
from crab_jax.params import flatten, nest
from crab_jax.starting import handed_on, newest_checkpoint
from data_pipelines.world.casting import Casting, names_in, reserved_pair
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.pretraining import draw_scene
from launch import part_lessons as pl
from launch import part_scenes as ps
from launch import pretrain_parts as pe
from launch.part_optimizer import kernels, optimizer_of

NAMES = list(KINDS)


def job(index, split="train"):
    return pe.Job(split, index, seed=5, image_size=112, grid=32)


def test_pictures_come_with_the_class_of_every_cell():
    found, settings = set(), set()
    for index in range(8):
        order = job(index).order("eye", (160, 120))
        rng = order.rng()
        scene = draw_scene(Casting.of(rng, "train"), order, 5, (1, 2, 3, 4, 5))
        there = {1 + NAMES.index(p.kind) for p in scene.performers}
        for picture, cells, placed, outdoors in pe.render_pictures(job(index)):
            assert outdoors == (scene.setting == "park")
            settings.add(bool(outdoors))
            assert (picture.shape, picture.dtype) == ((112, 112, 3), np.uint8)
            assert (cells.shape, cells.dtype) == ((32, 32), np.uint8)
            assert set(np.unique(cells)) - {0} <= there
            shown = placed[placed[:, 0] > 0]
            assert len(shown) == (placed[: len(shown), 0] > 0).sum(), "nobody comes last"
            assert set(np.unique(cells)) - {0} <= set(shown[:, 0]) <= there
            assert (np.diff(shown[:, 1] + shown[:, 3]) >= 0).all(), "from left to right"
            for kind, x1, y1, x2, y2 in shown:
                if (shown[:, 0] == kind).sum() == 1 and (cells == kind).any():
                    rows, columns = np.nonzero(cells == kind)
                    low, high = ((np.array([of(columns), of(rows)]) + 0.5) * pl.BINS / 32 for of in (np.min, np.max))
                    assert (low > np.array([x1, y1]) - 1).all(), "cells lie in the box"
                    assert (high < np.array([x2, y2]) + 2).all(), "cells lie in the box"
            found |= set(np.unique(cells))
    assert 0 in found
    assert len(found) > 3
    assert settings == {True, False}
    first, again, other = (pe.render_pictures(j)[0] for j in (job(0), job(0), job(0, "val")))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0])


def test_windows_come_with_how_loud_everybody_is():
    frames, level = [], {True: [], False: []}
    for index in range(6):
        for window, loud in pe.render_windows(job(index)):
            assert window.dtype == np.float16
            assert window.shape[1:] == (128,)
            assert loud.shape == (len(NAMES),)
            frames.append(len(window))
            level[bool(loud.any())].append(np.exp(window.astype(np.float32)).mean())
            # Seconds have all kinds, at some level; two seconds are of concerts, with their instruments and levels.
            if len(window) == 98:
                assert ((loud == 0) | ((loud >= 0.04) & (loud <= 0.21))).all()
            else:
                assert {NAMES[k] for k in np.flatnonzero(loud)} <= set(names_in("avqa"))
                assert np.isin(loud, [0, *np.float32([round(0.24 / 1.8**k, 4) for k in range(6)])]).all()
    assert set(frames) == {98, 198}, "one second, or two"
    assert level[False]
    assert np.median(level[True]) > max(level[False])


def test_nobody_begins_or_ends_within_a_window_of_a_concert():
    for seed in range(20):
        starts = ps.within_turns(np.random.default_rng(seed))
        assert (np.floor(starts / ps.TURN_S) == np.arange(ps.TURNS)).all()
        assert (starts + 2 <= ps.TURN_S * np.arange(1, ps.TURNS + 1)).all()


def test_batches_take_turns_and_show_everything():
    groups = [[np.arange(10)], [100 + np.arange(6)]]
    drawn = pe.batches(groups, 2, seed=0)
    seen = [next(drawn)[0] for _ in range(10)]
    assert all((b < 100).all() for b in seen[::2])
    assert all((b >= 100).all() for b in seen[1::2])
    assert sorted(np.concatenate(seen[::2])) == list(range(10))


def test_moved_pictures_take_their_cells_along():
    """Every cell is of one colour, its class; so it is after they have moved, some of them, and not all alike."""
    cells = np.random.default_rng(0).integers(0, 9, (16, 56, 56)).astype(np.uint8)
    pictures = np.repeat(cells.repeat(2, 1).repeat(2, 2)[..., None], 3, axis=-1)
    moved, along = (np.asarray(x) for x in pl.moved(jax.random.key(3), pictures, cells, 3))
    assert (moved.shape, moved.dtype, along.shape) == (pictures.shape, np.uint8, cells.shape)
    np.testing.assert_array_equal(moved[..., 0], along.repeat(2, 1).repeat(2, 2))
    assert 8 < sum((a != b).any() for a, b in zip(along, cells)) < 17
    by = {
        next(
            (y, x) for y in range(-3, 4) for x in range(-3, 4)
            if (np.pad(old, 3, mode="edge")[3 + y : 59 + y, 3 + x : 59 + x] == new).all()
        )
        for old, new in zip(cells, along)
    }  # fmt: skip
    assert len(by) > 5, "each by a way of its own, and edges repeated"


def test_mixed_windows_hold_what_both_held():
    """Energies add up, and so do those of one sound in two windows."""
    scale = 2 * pl.STD
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((64, 32, 128)).astype(np.float32)
    loud = np.where(rng.random((64, len(NAMES))) < 0.05, 0.1, 0).astype(np.float32)
    new, levels = (np.asarray(x) for x in pl.varied(jax.random.key(3), windows, loud))
    before = np.exp(windows * scale).sum((1, 2))
    after = np.exp(new * scale).sum((1, 2))
    alone = ((levels > 0) == (loud > 0)).all(1)
    assert (levels > 0)[loud > 0].all(), "nothing is lost"
    assert 0 < (~alone).sum() < 64, "some are mixed, not all"
    there = loud.any(1) & alone
    gain = np.nanmax(np.where(loud > 0, levels / np.where(loud > 0, loud, 1), np.nan)[there], axis=1)
    mixed_with_nobody = np.isclose(after[there], before[there] * gain**2, rtol=1e-2)
    assert mixed_with_nobody.mean() > 0.5, "loudness is told as it became"
    for one, other in zip(loud[~alone], np.roll(loud, 1, axis=0)[~alone]):
        pairs = [(NAMES[a], NAMES[b]) for a in np.nonzero(one)[0] for b in np.nonzero(other)[0] if a != b]
        assert not any(reserved_pair(*pair) for pair in pairs), "no pair that is kept for testing"
    partners = np.roll(before, 1)
    power = np.exp(2 * 0.8)  # at most so many times as much, or as little
    assert (after[~alone] > 0.99 / power * before[~alone]).all()
    assert (after[~alone] < 1.01 * power * (before + partners)[~alone]).all()
    softer = levels[(levels > 0) & alone[:, None]] / 0.1
    assert softer.max() > 4 * softer.min(), "a soft one beside a loud one has to be heard, too"


def run(which, folder, *more):
    file = folder / f"{which}.safetensors"
    pe.main([which, "--out", str(file), "--scenes", "8", "--steps", "2", "--rows", "4", "--log-every", "1", *more])
    return file


@pytest.fixture(scope="module")
def eye(tmp_path_factory):
    return run("eye", tmp_path_factory.mktemp("parts") / "sub")


@pytest.mark.parametrize(
    ("which", "part"),
    [
        ("eye", "clip"),
        pytest.param("ear", "beats", marks=pytest.mark.slow),
        ("vl_projector", "vl_projector"),
        pytest.param("al_projector", "al_projector", marks=pytest.mark.slow),
        pytest.param("decoder", "mask_decoder", marks=pytest.mark.slow),
    ],
)
def test_a_part_is_written_under_the_names_of_the_model(which, part, eye, tmp_path):
    encoder = {"clip": eye, "beats": None, "": None}[pe.PARTS[which].encoder]
    if pe.PARTS[which].encoder == "beats":
        encoder = run("ear", tmp_path)
    more = ("--encoder", str(encoder)) if encoder else ()
    file = eye if which == "eye" else run(which, tmp_path, *more)
    given = handed_on(newest_checkpoint(file))
    wanted = {
        p: x for p, x in abstract(build(CrabConfig, mini.get_config().model.to_dict())).items() if p.startswith(part)
    }
    assert {p: x.shape for p, x in given.items()} == {p: x.shape for p, x in wanted.items()}
    assert all(np.isfinite(x).all() for x in given.values())


def test_who_needs_an_encoder(eye, tmp_path, capsys):
    for line in (["decoder"], ["vl_projector"], ["eye", "--encoder", "eye.safetensors"]):
        with pytest.raises(SystemExit):
            pe.main([*line, "--out", str(tmp_path / "x.safetensors")])
        assert "--encoder FILE" in capsys.readouterr().err
    none = tmp_path / "none.safetensors"
    for which, encoder, message in (
        ("decoder", none, "none.safetensors: no checkpoint in it"),
        ("al_projector", eye, "expected beats/…, found none of it"),
    ):
        with pytest.raises(SystemExit):
            pe.main([which, "--encoder", str(encoder), "--out", str(tmp_path / "x.safetensors")])
        assert message in capsys.readouterr().err


def test_the_loudest_comes_first():
    """What the audio projector has to say of two sounds, read off its loss: only in that order is it small."""
    config = build(CrabConfig, mini.get_config().model.to_dict())
    seen = {}

    class Spy:
        def __init__(self, *_):
            pass

        def init(self, key, x):
            return {"params": {}}

        def apply(self, params, x):
            seen["batch"] = len(x)
            return jax.nn.one_hot(np.array([[3, 1, 0, 0]]), config.al_projector.out_features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl, "Beats", Spy), patch.setattr(pl, "QFormer", Spy)
        start, loss = pl.al_projector(config, {})
        params = start(jax.random.key(0))
        params["head"] = 20 * np.eye(*params["head"].shape, dtype=np.float32)
        loud = np.zeros((1, len(NAMES)), np.float32)
        for kind, level in ((3, 0.2), (1, 0.1)):
            loud[0, kind - 1] = level
        params["heard"] = np.zeros(params["heard"].shape, np.float32)
        params["heard"][np.arange(1, 1 + len(NAMES)), np.arange(len(NAMES))] = 40
        told, right = loss(params, None, np.zeros((1, 98, 128)), loud)
        assert float(right["together right"]) == 1
        known, params["heard"] = params["heard"], np.zeros_like(params["heard"])
        guessed, unsure = loss(params, None, np.zeros((1, 98, 128)), loud)
        assert float(unsure["together right"]) == 0
        assert guessed > told + 2, "who is there counts, in whatever order"
        params["heard"] = known
        other = loss(params, None, np.zeros((1, 98, 128)), np.where(loud == 0.2, 0.05, loud))[1]
    assert (float(right["named"]), float(other["named"])) == (1, 0)
    assert float(right["all right"]) == float(other["all right"]) == 1


def test_a_file_that_is_none(tmp_path):
    save_file({"clip/positions": np.zeros((2, 2), np.float32)}, tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"half\.safetensors"):
        handed_on(newest_checkpoint(tmp_path / "half.safetensors"))
    with pytest.raises(CheckpointError, match=r"no checkpoint in it; .* or a safetensors file"):
        newest_checkpoint(tmp_path / "missing.safetensors")


def test_matrices_of_hidden_layers_are_kept_apart():
    """They are turned as a whole; vocabularies, classes, codes and everything that is no matrix are not."""
    shapes = {
        p: x for p, x in abstract(build(CrabConfig, mini.get_config().model.to_dict())).items() if "lora" not in p
    }
    turned = flatten(kernels(nest(shapes)))
    axes = {path: turned[path] for path in turned if turned[path] is not None}
    assert "llama/embed/embedding" not in axes
    assert not any(path.split("/")[-2] == "head" or "classifier" in path for path in axes)
    assert {path for path in shapes if path.endswith("kernel")} - set(axes) == {
        "llama/head/kernel", "mask_decoder/classifier_binary/kernel", "mask_decoder/classifier_semantic/kernel",
    }  # fmt: skip
    size = lambda shape, some: np.prod([shape[k] for k in (some if isinstance(some, tuple) else (some,))])  # noqa: E731
    inputs = {path: size(shapes[path].shape, at.reduction_axis) for path, at in axes.items()}
    assert inputs["llama/layers/mlp/down/kernel"] == 432
    assert inputs["clip/patch_embed/kernel"] == 14 * 14 * 3
    assert inputs["mask_decoder/neck/conv2/kernel"] == 9 * 128
    assert inputs["mask_decoder/level_up/kernel"] == 128
    some = {p: jax.numpy.ones(x.shape) for p, x in shapes.items() if re.match("llama/(head|norm|layers/mlp)", p)}
    moved = nest(some | {"mask_decoder/level_up/kernel": jax.numpy.ones(shapes["mask_decoder/level_up/kernel"].shape)})
    optimizer = optimizer_of(1e-3, 40)
    update, _ = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p))(moved)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(update))


def test_an_earlier_part_is_taken_as_it_is(eye, tmp_path, capsys):
    out = tmp_path / "eye.safetensors"
    half = {path: np.asarray(x, np.float16) for path, x in handed_on(newest_checkpoint(eye)).items()}
    save_file(half | {"llama/norm/scale": np.ones(4, np.float16)}, tmp_path / "all.safetensors")
    pe.main(["eye", "--out", str(out), "--start", str(tmp_path / "all.safetensors"), "--steps", "0"])
    taken = {path: np.asarray(x) for path, x in handed_on(newest_checkpoint(out)).items()}
    assert set(taken) == set(half)
    assert {x.dtype for x in taken.values()} == {np.dtype("float32")}
    assert all(np.array_equal(taken[path], half[path]) for path in half)
    with pytest.raises(SystemExit):
        pe.main(["eye", "--out", str(out), "--steps", "0"])
    assert "--start FILE" in capsys.readouterr().err
