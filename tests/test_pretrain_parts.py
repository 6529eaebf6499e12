"""The encoders of crab-mini: what they are shown, and that a stage can start from what is written."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import mini
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.model import CrabConfig, abstract
from crab_jax.starting import handed_on, newest_checkpoint
from data_pipelines.world.casting import Casting
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.pretraining import draw_scene
from launch import pretrain_parts as pe

NAMES = list(KINDS)


def job(index, split="train"):
    return pe.Job(split, index, seed=5, image_size=112, grid=32)


def test_pictures_come_with_the_class_of_every_cell():
    found = set()
    for index in range(4):
        order = job(index).order("eye", (160, 120))
        rng = order.rng()
        scene = draw_scene(Casting.of(rng, "train"), order, 5, (1, 2, 3, 4, 5))
        there = {1 + NAMES.index(p.kind) for p in scene.performers}
        for picture, cells in pe.render_pictures(job(index)):
            assert (picture.shape, picture.dtype) == ((112, 112, 3), np.uint8)
            assert (cells.shape, cells.dtype) == ((32, 32), np.uint8)
            assert set(np.unique(cells)) - {0} <= there
            found |= set(np.unique(cells))
    assert 0 in found
    assert len(found) > 3
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
            assert ((loud == 0) | ((loud >= 0.04) & (loud <= 0.21))).all()
    assert set(frames) == {98, 198}, "one second, or two"
    assert not level[False] or np.median(level[True]) > max(level[False])


def test_batches_take_turns_and_show_everything():
    groups = [[np.arange(10)], [100 + np.arange(6)]]
    drawn = pe.batches(groups, 2, seed=0)
    seen = [next(drawn)[0] for _ in range(10)]
    assert all((b < 100).all() for b in seen[::2])
    assert all((b >= 100).all() for b in seen[1::2])
    assert sorted(np.concatenate(seen[::2])) == list(range(10))


def test_mixed_windows_hold_what_both_held():
    """Energies add up, and so do those of one sound in two windows."""
    scale = 2 * pe.STD
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((64, 32, 128)).astype(np.float32)
    loud = np.where(rng.random((64, len(NAMES))) < 0.05, 0.1, 0).astype(np.float32)
    new, levels = (np.asarray(x) for x in pe.varied(jax.random.key(3), windows, loud))
    before = np.exp(windows * scale).sum((1, 2))
    after = np.exp(new * scale).sum((1, 2))
    alone = ((levels > 0) == (loud > 0)).all(1)
    assert (((levels > 0) | (np.roll(loud, 1, axis=0) > 0)) >= (loud > 0)).all()
    assert (levels > 0)[loud > 0].all(), "nothing is lost"
    assert 0 < (~alone).sum() < 64, "some are mixed, not all"
    there = loud.any(1) & alone
    gain = np.nanmax(np.where(loud > 0, levels / np.where(loud > 0, loud, 1), np.nan)[there], axis=1)
    mixed_with_nobody = np.isclose(after[there], before[there] * gain**2, rtol=1e-2)
    assert mixed_with_nobody.mean() > 0.5, "loudness is told as it became"
    partners = np.roll(before, 1)
    assert (after[~alone] > 0.36 * before[~alone]).all()
    assert (after[~alone] < 2.8 * (before + partners)[~alone]).all()


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
        pytest.param("decoder", "mask_decoder", marks=pytest.mark.slow),
    ],
)
def test_a_part_is_written_under_the_names_of_the_model(which, part, eye, tmp_path):
    more = ("--eye", str(eye)) if which == "decoder" else ()
    file = eye if which == "eye" else run(which, tmp_path, *more)
    given = handed_on(newest_checkpoint(file))
    wanted = {
        p: x for p, x in abstract(build(CrabConfig, mini.get_config().model.to_dict())).items() if p.startswith(part)
    }
    assert {p: x.shape for p, x in given.items()} == {p: x.shape for p, x in wanted.items()}
    assert all(np.isfinite(x).all() for x in given.values())


def test_the_decoder_needs_an_eye(tmp_path, capsys):
    for line in (["decoder"], ["eye", "--eye", "eye.safetensors"]):
        with pytest.raises(SystemExit):
            pe.main([*line, "--out", str(tmp_path / "x.safetensors")])
    assert "--eye FILE" in capsys.readouterr().err


def test_a_file_that_is_none(tmp_path):
    save_file({"clip/positions": np.zeros((2, 2), np.float32)}, tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"half\.safetensors"):
        handed_on(newest_checkpoint(tmp_path / "half.safetensors"))
    with pytest.raises(CheckpointError, match=r"no checkpoint in it; .* or a safetensors file"):
        newest_checkpoint(tmp_path / "missing.safetensors")
