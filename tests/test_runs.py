"""Runs become weights folders and published files: on checkpoints of runs that nobody trained."""

import argparse
import ast
import dataclasses
import pathlib
import re
import shutil
import zlib

import jax
import ml_dtypes
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

import published_files as files  # noqa: E402

from configs import common  # noqa: E402
from crab_jax import checkpoint, cli, starting  # noqa: E402
from crab_jax.checkpoint import CheckpointError  # noqa: E402
from crab_jax.config import to_dict  # noqa: E402
from crab_jax.convert import command, runs  # noqa: E402
from crab_jax.convert.crab import CRAB_FILES  # noqa: E402
from crab_jax.convert.published_names import export_run  # noqa: E402
from crab_jax.convert.run import convert  # noqa: E402
from crab_jax.convert.runs import read_whole, save_whole  # noqa: E402
from crab_jax.params import split  # noqa: E402
from crab_jax.recipe import Stage  # noqa: E402
from crab_jax.sharding import make_mesh  # noqa: E402
from crab_jax.starting import model_config, shapes_of, starting_params  # noqa: E402
from crab_jax.train.checkpoint import Checkpoints  # noqa: E402
from crab_jax.train.fingerprint import fingerprint as slow_fingerprint  # noqa: E402
from crab_jax.train.step import init_state  # noqa: E402

SEED = 7
STAGES = {
    "visual_pretrain": (("vl_projector/.*", "llama/head/.*"), ()),
    "seg_pretrain": (common.MASKS, ()),
    "finetune": ((*common.PROJECTORS, *common.LORA), ("visual_pretrain",)),
    "finetune_avs": ((*common.MASKS, *common.VOCABULARY), ("finetune", "seg_pretrain")),
}


def fingerprint(flat):
    """The one that training writes, without compiling a program for every set of shapes."""
    parts: dict[str, int] = {}
    for path in sorted(flat):
        x = np.asarray(flat[path])
        bits = x.reshape(-1).view({4: np.uint32, 2: np.uint16}[x.dtype.itemsize]).astype(np.uint32)
        place = np.arange(x.size, dtype=np.uint32)
        sums = (bits ^ (place * np.uint32(0x9E3779B1))) * (place * np.uint32(0x85EBCA6B) | 1)
        text = f"{path} {x.shape} {x.dtype.name} {sums.sum(dtype=np.uint32)}"
        part = path.split("/", 1)[0]
        parts[part] = zlib.crc32(text.encode(), parts.get(part, 0))
    return {part: f"{value:08x}" for part, value in parts.items()}


@pytest.fixture(scope="module", autouse=True)
def _fast_fingerprint():
    flat = {"a/x": np.arange(6, dtype=np.float32).reshape(2, 3), "b/y": np.ones(5, ml_dtypes.bfloat16)}
    assert fingerprint(flat) == slow_fingerprint(jax.device_put(flat))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "fingerprint", fingerprint)
        yield


def fake_run(workdir, stage, sizes, *, step=3, dtype="bfloat16"):
    """A run from its start: its trainables are what it starts from, and noise. → start, trained."""
    mesh = make_mesh(devices=jax.devices()[:1])
    trainable, frozen = starting_params(stage, sizes, mesh, frozen_dtype=dtype, seed=SEED)
    rng = np.random.default_rng(len(stage.name) + step)
    trained = {p: np.asarray(x) + rng.standard_normal(x.shape, np.float32) for p, x in trainable.items()}
    leave(workdir, stage, sizes, trained, frozen, step=step, dtype=dtype)
    return {p: np.asarray(x) for p, x in (frozen | trainable).items()}, trained


def leave(workdir, stage, sizes, trained, frozen, *, step=3, dtype="bfloat16"):
    """The checkpoint that a run leaves."""
    compute, run = {"frozen_dtype": dtype}, {"seed": SEED}
    about = {
        "config": {"stage": to_dict(stage), "model": to_dict(sizes), "compute": compute, "run": run},
        "fingerprint": fingerprint(frozen),
        "stream": None,
    }
    with Checkpoints(workdir / "checkpoints", keep_last=5) as saves:
        saves.save(step, init_state(jax.device_put(trained), optax.sgd(0.1), 0), about, loss=1.0)


@dataclasses.dataclass
class Made:
    folder: pathlib.Path
    base: pathlib.Path
    published: files.Published
    start: dict
    trained: dict

    def run(self, stage):
        return self.folder / stage


@pytest.fixture(scope="module")
def made(_fast_fingerprint, tmp_path_factory):
    """Four stages, each from those before, on converted files."""
    folder = tmp_path_factory.mktemp("runs")
    published = files.write(folder / "published")
    roles = ("llama", "clip", "beats", "visual_pretrain", "audio_pretrain", "segmentation_pretrain", "finetune")
    convert(published.inputs(*roles), folder / "base", numbers=files.numbers(published.config))
    sizes = dataclasses.replace(
        published.config, mask_decoder=checkpoint.load(folder / "base", parts=["mask_decoder"]).config.mask_decoder
    )
    found = Made(folder, folder / "base", published, {}, {})
    for name, (train, earlier) in STAGES.items():
        stage = Stage(name=name, base=str(found.base), start=tuple(str(folder / e) for e in earlier), train=train)
        found.start[name], found.trained[name] = fake_run(folder / name, stage, sizes)
    return found


def equal(x, y):
    """The same numbers, in whatever type they are kept."""
    return np.array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))


def test_runs_become_a_weights_folder(made, tmp_path):
    overlays = {"avs": made.run("finetune_avs")}
    lines = save_whole(made.run("finetune"), tmp_path / "w", overlays=overlays)
    assert any("avs: " in line for line in lines)
    about = (tmp_path / "w/report.json").read_text()
    assert "finetune_avs" in about
    assert str(pathlib.Path(made.run("finetune")).parent) not in about, "how it was made, not where"
    assert not any("note" in line for line in lines)
    base, original = checkpoint.load(tmp_path / "w"), checkpoint.load(made.base)
    for path, x in made.start["finetune"].items():
        if path in made.trained["finetune"]:
            assert equal(base.params[path], made.trained["finetune"][path]), path
        elif path in original.params:  # not rounded, as the run has done
            assert base.params[path].tobytes() == original.params[path].tobytes(), path
        else:
            assert equal(base.params[path], x), path
    over = checkpoint.load(tmp_path / "w", variant="avs")
    overlaid = ("mask_decoder/", "llama/embed/", "llama/head/")
    assert set(base.overlays["avs"]) == {path for path in base.params if path.startswith(overlaid)}
    for path, x in made.trained["finetune_avs"].items():
        assert equal(over.params[path], x), path
    assert equal(over.params["mask_decoder/pe/level0"], original.params["mask_decoder/pe/level0"])
    assert equal(over.params["vl_projector/queries"], made.trained["finetune"]["vl_projector/queries"])
    assert base.tokenizer.read_bytes() == original.tokenizer.read_bytes()
    # The folder takes further overlays, and keeps those it has.
    save_whole(tmp_path / "w", tmp_path / "again", overlays={"avss": made.run("finetune_avs")}, dtype="bfloat16")
    again = checkpoint.load(tmp_path / "again")
    assert equal(again.overlays["avss"]["llama/embed/embedding"], again.overlays["avs"]["llama/embed/embedding"])
    assert {x.dtype.name for x in again.params.values()} == {"bfloat16"}


def test_runs_become_published_files_and_come_back(made, tmp_path):
    roles = {"seg_pretrain": "segmentation_pretrain", "finetune_avs": "avs"}
    made_files = {}
    for stage in STAGES:
        role = roles.get(stage, stage)
        written = export_run(made.run(stage), tmp_path)
        made_files[role] = tmp_path / CRAB_FILES[role]
        assert written.path == made_files[role]
        loaded = torch.load(written.path, weights_only=True)
        assert len(loaded) == written.tensors
        published = set(made.published.tensors[role]) - {"model.embed_tokens.weight"}
        assert published <= set(loaded)
        assert written.missing == 0, "the base has kept what no network reads"
        extra = {name for name in set(loaded) - published if not name.endswith("gaussian_matrix")}
        assert extra == ({"lm_head.weight"} if stage == "visual_pretrain" else set())
        assert all(x.dtype == torch.float32 for x in loaded.values())
    with pytest.raises(CheckpointError, match=r"visual_pretrain\.bin: exists"):
        export_run(made.run("visual_pretrain"), tmp_path)

    public, numbers = made.published.inputs("llama", "clip", "beats"), files.numbers(made.published.config)
    finetuned = {role: made_files[role] for role in ("finetune", "avs")}
    convert(dataclasses.replace(public, **finetuned), tmp_path / "finetuned", numbers=numbers)
    back = checkpoint.load(tmp_path / "finetuned")
    assert all(equal(back.params[p], x) for p, x in made.trained["finetune"].items())
    assert all(equal(back.overlays["avs"][p], x) for p, x in made.trained["finetune_avs"].items())
    pe = "mask_decoder/pe/level1"
    assert equal(back.overlays["avs"][pe], made.start["finetune_avs"][pe])
    # A stage starts from such files as it does from the run.
    pretrained = {role: made_files[role] for role in ("visual_pretrain", "segmentation_pretrain")}
    pretrained["audio_pretrain"] = made.published.path("audio_pretrain")
    convert(dataclasses.replace(public, **pretrained), tmp_path / "pretrained", numbers=numbers)
    stage = Stage(name="visual_pretrain", base=str(tmp_path / "pretrained"), train=("vl_projector/.*",))
    mesh = make_mesh(devices=jax.devices()[:1])
    starts = starting_params(stage, model_config(stage, None), mesh, frozen_dtype="float32", seed=0)
    for flat, earlier in zip(starts, ("visual_pretrain", "seg_pretrain"), strict=True):
        mine = {p: x for p, x in made.trained[earlier].items() if not p.startswith("llama/head")}
        assert all(equal(flat[p], x) for p, x in mine.items())


def test_a_run_without_a_base(made, tmp_path, monkeypatch):
    """Frozen weights that were drawn are drawn again; what is not the same is said."""

    def draw(config, paths, places, dtype, seed):  # `starting.draw` without compiling all of `model.init`
        rng = np.random.default_rng(seed)
        return {path: rng.standard_normal(shapes_of(config)[path].shape).astype(dtype[path]) for path in paths}

    monkeypatch.setattr(runs, "draw", draw)
    sizes = read_whole(made.run("finetune"), check=False).config
    stage = Stage(name="finetune", train=common.FULL, train_encoders=True)
    trained, frozen = split(shapes_of(sizes), stage.train)
    rng = np.random.default_rng(0)
    trained = {path: rng.standard_normal(x.shape, np.float32) for path, x in trained.items()}
    frozen = draw(sizes, sorted(frozen), None, dict.fromkeys(frozen, "float32"), SEED)
    leave(tmp_path / "full", stage, sizes, trained, frozen)
    assert save_whole(tmp_path / "full", tmp_path / "w")[0].startswith("base: ")
    back = checkpoint.load(tmp_path / "w")
    assert set(back.params) == {*trained, *frozen}
    assert all(equal(back.params[p], x) for p, x in (trained | frozen).items())
    assert back.tokenizer.stat().st_size > 1000
    with pytest.raises(CheckpointError, match=r"has no place for, such as beats/"):
        export_run(tmp_path / "full", tmp_path / "files")
    about = tmp_path / "full/checkpoints/3/about/metadata"
    about.write_text(about.read_text().replace(f'"seed": {SEED}', '"seed": 8'))
    assert "mask_decoder: 2 parameters were drawn again" in read_whole(tmp_path / "full").notes[0]


def test_a_base_without_anything_of_crab(made, tmp_path, monkeypatch):
    """As docs/training.md starts: language model and encoders from their files, the rest at random, or from runs."""

    def draw(config, paths, places, dtype, seed):
        return {path: np.full(shapes_of(config)[path].shape, 7, dtype[path]) for path in paths}

    monkeypatch.setattr(starting, "draw", draw)
    bare = tmp_path / "bare"
    convert(made.published.inputs("llama", "clip", "beats"), bare, numbers=files.numbers(made.published.config))
    sizes = read_whole(made.run("finetune"), check=False).config
    mesh = make_mesh(devices=jax.devices()[:1])
    given = pathlib.Path(__file__).parents[1].joinpath("docs/training.md").read_text()
    (fresh,) = re.findall(r'--config\.stage\.fresh="(\(.*?\))"\)', given)
    stage = Stage(name="visual_pretrain", base=str(bare), train=("vl_projector/.*",), fresh=ast.literal_eval(fresh))
    trainable, frozen = starting_params(stage, model_config(stage, sizes), mesh, frozen_dtype="float32", seed=0)
    everything = checkpoint.load(made.base).params
    for path, x in (trainable | frozen).items():
        own = path.startswith(("vl_projector/", "al_projector/", "mask_decoder/")) or "/lora_" in path
        assert (np.asarray(x) == 7).all() if own else equal(x, everything[path]), path
    after = dataclasses.replace(
        stage, name="finetune", train=("llama/.*lora_.*",), start=(str(made.run("visual_pretrain")),)
    )
    _, frozen = starting_params(after, model_config(after, sizes), mesh, frozen_dtype="float32", seed=0)
    mine = {p: x for p, x in made.trained["visual_pretrain"].items() if p.startswith("vl_projector/")}
    assert mine
    assert all(equal(frozen[p], x) for p, x in mine.items()), "what a run has trained is not drawn again"
    with pytest.raises(CheckpointError, match=r"llama.lora is None there"):
        model_config(dataclasses.replace(stage, fresh=()), sizes)


def test_runs_that_do_not_fit(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("published"))
    joint = tmp_path / "copy" / "finetune"
    stage = Stage(name="visual_pretrain", base=str(made.base), train=("vl_projector/.*",))
    fake_run(tmp_path / "copy/visual_pretrain", stage, read_whole(made.run("finetune")).config, step=4)
    moved = {str(made.run("visual_pretrain")): str(tmp_path / "copy/visual_pretrain")}
    read_whole(joint, moved=moved)  # what came from there is trained in the joint run, so it does not matter
    avs = tmp_path / "copy/finetune_avs"
    moved = {str(made.run("finetune")): str(tmp_path / "nowhere")}
    with pytest.raises(CheckpointError, match=r"which is not there .*--moved"):
        read_whole(avs, moved=moved)
    moved = {str(made.run("finetune")): str(made.run("visual_pretrain"))}
    with pytest.raises(CheckpointError, match=r"frozen (llama|.l_projector) is not what the run was"):
        read_whole(avs, moved=moved)
    with pytest.raises(CheckpointError, match="nothing to put over it"):
        save_whole(made.run("finetune_avs"), tmp_path / "w", overlays={"avs": made.run("finetune_avs")})
    with pytest.raises(CheckpointError, match="no checkpoint in it"):
        save_whole(tmp_path, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"expected a run of visual_pretrain.*found a weights folder"):
        export_run(made.base, tmp_path / "files")
    assert not (tmp_path / "w").exists()


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(a) for a in arguments])


def test_command(made, tmp_path, capsys):
    joint, avs = made.run("finetune"), made.run("finetune_avs")
    assert command.run(parse(joint, "--avs", avs, "--out", tmp_path / "w")) == 0
    assert "parameters from the run" in capsys.readouterr().out
    assert command.run(parse("--to", "torch", joint, "--out", tmp_path / "f")) == 0
    assert "finetune_weights.bin: " in capsys.readouterr().out
    assert command.run(parse("--to", "torch", joint, "--out", tmp_path / "f")) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: "), "no bar that moves nothing"
    for wrong, message in (
        ((joint, "--out", tmp_path / "w"), "is not empty"),
        ((joint, "--pe", "T3", "--out", tmp_path / "v"), "--pe: not together with the run"),
        ((tmp_path / "none", "--out", tmp_path / "v"), "no such folder"),
        ((joint, "--avs", tmp_path / "none", "--out", tmp_path / "v"), "no such folder"),
        ((joint, "--moved", "x", "--out", tmp_path / "v"), "expected OLD=NEW"),
        (("--to", "torch", "--out", tmp_path / "v"), "belong to the workdir of a run"),
        (("--to", "torch", joint, "--avs", avs, "--out", tmp_path / "v"), "--avs: not together"),
    ):
        assert command.run(parse(*wrong)) == 2, wrong
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert message in shown
    assert not (tmp_path / "v").exists()


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("crab_jax 0.")


def test_what_goes_along_does_not_say_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    origins = {f"the run {tmp_path.resolve()}/runs/mini/eye.safetensors": 3, "the run runs/mini/finetune": 2}
    told = runs._below(origins, pathlib.Path("runs/mini"))
    assert told == {"the run eye.safetensors": 3, "the run finetune": 2}
