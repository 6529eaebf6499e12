"""`launch/train_mini.sh`, with stand-ins for Python and `crab` that write down what they were asked for."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from launch import pretrain_language, pretrain_parts

ROOT = pathlib.Path(__file__).parent.parent
# Does sums as Python does, installs nothing, and leaves what a program would have left.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
  "-c import sys; print("*) exec REAL "$@" ;;
  "-m launch.pre"*) echo "${*:2}" >> "$ASKED"; while [ $# -gt 1 ]; do [ "$1" != --out ] || touch "$2"; shift; done ;;
  "-m launch.train "*) echo "${*:2}" >> "$ASKED" ;;
  "world --baselines "*) mkdir -p "$3/bandstand"; touch "$3/bandstand/baselines.json" ;;
  "convert "*) mkdir -p "$SHIP" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")


@pytest.fixture
def script(tmp_path):
    """Runs it with its runs in a folder → exit code, what it complained about, what it asked for."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "crab"):
        (folder / name).write_text(STAND_IN.replace("REAL", sys.executable))
        (folder / name).chmod(0o755)

    def run(*args, runs=tmp_path / "runs"):
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        given = {"VENV": str(tmp_path / "venv"), "ASKED": str(asked), "SHIP": str(runs / "weights")}
        done = subprocess.run(
            ["bash", str(ROOT / "launch/train_mini.sh"), "--runs", str(runs), *map(str, args)],
            env=os.environ | given, capture_output=True, text=True,
        )  # fmt: skip
        lines = asked.read_text().splitlines() if asked.exists() else []
        return done.returncode, done.stderr, [line.split() for line in lines]

    return run


@pytest.fixture
def understood(monkeypatch):
    """What the programs make of their arguments, by what they make."""
    seen = {}
    monkeypatch.setattr(pretrain_parts, "train", lambda which, config, args: seen.update({which: args}))
    monkeypatch.setattr(
        pretrain_language, "train", lambda config, args: seen.update({args.out.name.partition(".")[0]: args})
    )

    def of(asked):
        seen.clear()
        for program, *args in asked:
            if program == "launch.pretrain_parts":
                pretrain_parts.main(args)
            elif program == "launch.pretrain_language":
                pretrain_language.main(args)
        return dict(seen)

    return of


def test_from_nothing(script, understood, tmp_path):
    code, complaint, asked = script()
    assert code == 0, complaint
    parts, runs = understood(asked), tmp_path / "runs"
    assert {*parts} == {"eye", "ear", "vl_projector", "al_projector", "decoder", "among", "words", "language"}
    assert parts["language"].start == runs / "words.safetensors"
    assert parts["words"].start == runs / "among.safetensors"
    for name in ("among", "words"):
        assert (parts[name].words, parts[name].parts) == (1, None), "it needs nothing that is trained before"
    assert parts["among"].among > parts["words"].among >= parts["language"].among > 0
    assert 0 < parts["language"].words < 1
    assert all(args.start is None for name, args in parts.items() if name not in ("words", "language"))
    assert all(args.steps >= 5000 for name, args in parts.items() if name not in ("among", "words"))
    by_seed = {args.seed: {p for p in parts if parts[p].seed == args.seed} for args in parts.values()}
    # A projector must not learn on what its encoder has learned on.
    assert by_seed == {
        1: {"eye", "ear"}, 2: {"vl_projector", "al_projector", "decoder"}, 3: {"language"}, 4: {"words"}, 5: {"among"},
    }  # fmt: skip
    encoders = {"vl_projector": "eye", "decoder": "eye", "al_projector": "ear"}
    assert {part: parts[part].encoder for part in encoders} == {
        part: runs / f"{name}.safetensors" for part, name in encoders.items()
    }
    assert (parts["vl_projector"].rows, parts["al_projector"].rows, parts["decoder"].rows) == (48, 32, 8)
    stages = [args[args.index("--workdir") + 1] for program, *args in asked if program == "launch.train"]
    assert [pathlib.Path(s).name for s in stages][:4] == [
        "visual_pretrain",
        "audio_pretrain",
        "seg_pretrain",
        "finetune",
    ]
    assert {pathlib.Path(s).name for s in stages[4:]} == {"finetune_avs", "finetune_avss"}
    assert (runs / "weights" / "baselines.json").exists()
    assert not understood(script()[2]), "parts that are there are not made again"


def test_a_later_round(script, understood, tmp_path):
    """The eye is taken as it is; all others learn on, on scenes of their own."""
    before = tmp_path / "before.safetensors"
    before.write_bytes(b"earlier weights")
    code, complaint, asked = script("--from", before, "--round", 2)
    assert code == 0, complaint
    parts, whole = understood(asked), understood(script(runs=tmp_path / "whole")[2])
    assert all(args.start == before for name, args in parts.items() if name != "language")
    assert "among" not in parts, "it has been found before"
    assert [part for part, args in parts.items() if not args.steps] == ["eye"]
    assert all(args.seed == whole[part].seed + 20 for part, args in parts.items())
    assert parts["ear"].steps < whole["ear"].steps
    assert parts["decoder"].encoder == tmp_path / "runs" / "eye.safetensors"


def test_a_part_of_it(script, understood, tmp_path):
    parts = understood(script("--scale", "0.1", runs=tmp_path / "part")[2])
    whole = understood(script(runs=tmp_path / "whole")[2])
    for part, args in parts.items():
        assert args.steps == pytest.approx(whole[part].steps / 10)
    assert parts["eye"].scenes == whole["eye"].scenes / 10
    assert parts["language"].music == whole["language"].music / 10


def test_what_was_begun_is_not_mixed(script, tmp_path):
    before, other = tmp_path / "before.safetensors", tmp_path / "other.safetensors"
    before.write_bytes(b"earlier weights")
    other.write_bytes(b"others")
    assert script("--from", before)[0] == 0
    for args in ((), ("--from", before, "--round", 2), ("--from", other)):
        code, complaint, asked = script(*args)
        assert (code, asked) == (2, [])
        assert "was begun round 1 from" in complaint
        assert "choose another --runs" in complaint
    assert script("--from", before, "--round", 1)[0] == 0


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--from", "nowhere.safetensors"), "expected a safetensors file"),
        (("--round", "2"), "is for --from FILE"),
        (("--from", "setup.py", "--round", "second"), "expected 1, 2"),
        (("--scale",), "needs a value"),
        (("--rounds", "2"), "unknown option"),
    ],
)
def test_what_it_does_not_understand(script, args, complaint):
    code, said, asked = script(*args)
    assert (code, asked) == (2, [])
    assert complaint in said
