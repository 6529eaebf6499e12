"""The ablation's plan, commands, table and resuming, with stand-ins for training and evaluation."""

import argparse
import json
import subprocess

import pytest

from launch import ablation


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the ablation with commands that only say what they would have done; returns exit code and commands."""

    def start(*extra, code=lambda command: 0):
        calls = []

        def stand_in(command, **_):
            calls.append(command)
            if (result := code(command)) == 0 and "eval" in command:
                out = tmp_path.__class__(command[command.index("--out") + 1])
                out.mkdir(parents=True, exist_ok=True)
                seed = int(out.parts[-2][-1]) if "seed" in out.parts[-2] else int(out.parts[-3][-1])
                tasks = command[command.index("--task") + 1].split(",")
                sets = [
                    {
                        "task": t,
                        "split": "test",
                        "runs": [{"headline": ["accuracy"], "numbers": {"accuracy": seed / 4}}],
                    }
                    for t in tasks
                ]
                (out / "table.json").write_text(json.dumps({"test_sets": sets}))
            return subprocess.CompletedProcess(command, result)

        monkeypatch.setattr(ablation.subprocess, "run", stand_in)
        argv = ["--base", "b", "--shards", "s", "--out", str(tmp_path / "out"), "--tasks", "avqa,s4", *extra]
        return ablation.main(argv), calls

    return start


def test_every_variant_and_seed_is_trained_converted_and_scored(run, tmp_path):
    code, calls = run("--seeds", "2", "--steps", "10")
    assert code == 0
    kinds = [next(k for k in ("launch.train", "convert", "eval") if k in c) for c in calls]
    models = 2 * (2 + len(ablation.VARIANTS) - 1)  # the single-task variant has one model per task
    assert kinds == ["launch.train", "convert", "eval"] * models
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "| avqa/test, accuracy | 0.375 ± 0.177 (2) |" in table
    scores = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert scores["single-task"] == {"avqa/test, accuracy": [0.25, 0.5], "s4/test, accuracy": [0.25, 0.5]}


def test_the_budget_is_the_same(run):
    _, calls = run("--seeds", "1", "--steps", "10")
    trained = [c for c in calls if "launch.train" in c]
    steps = [next(a for a in c if a.startswith("--config.run.steps=")) for c in trained]
    assert [s.split("=")[1] for s in steps] == ["5", "5"] + ["10"] * (len(trained) - 2)


def test_variants_differ_in_heads_and_reasoning(run):
    _, calls = run("--seeds", "1")
    told = {c[c.index("--workdir") + 1].split("/")[-3]: c for c in calls if "launch.train" in c}
    config = {name: c[c.index("--config") + 1] for name, c in told.items() if name != "seed1"}
    assert config["heads-5"].endswith("tasks=avqa+s4,heads=5")
    assert "--config.data.reasoning=False" in told["heads-3-no-reasoning"]
    assert "--config.data.reasoning=True" in told["heads-3"]
    assert "--config.loss.heads=('binary',)" in told["heads-3"]


def test_it_goes_on_where_it_was(run):
    code, _ = run("--seeds", "1", code=lambda command: 75 * ("heads-3/seed1/run" in " ".join(command)))
    assert code == 75
    code, more = run("--seeds", "1")
    assert code == 0
    again = {c[c.index("--workdir") + 1].split("/out/")[1] for c in more if "launch.train" in c}
    assert again == {"heads-3/seed1/run", "heads-5/seed1/run", "heads-3-no-reasoning/seed1/run"}


def test_a_failed_trial_loses_no_other(run, tmp_path, capsys):
    code, _ = run("--seeds", "1", code=lambda command: int("heads-1/seed1/run" in " ".join(command)))
    assert code == 1
    assert "log.txt" in capsys.readouterr().err
    scores = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert scores["heads-1"] == {}
    assert scores["heads-5"]


def test_unknown_names_are_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="heads-7"):
        ablation._variants("heads-3,heads-7")
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=VALUE"):
        ablation._pair("rows")


def test_the_config_takes_every_value(run):
    """What the command line of a training run sets must exist in the config of the stage."""
    from configs import finetune

    _, calls = run("--seeds", "1")
    for command in (c for c in calls if "launch.train" in c):
        config = finetune.get_config(command[command.index("--config") + 1].partition(":")[2]).to_dict()
        for flag in (a for a in command if a.startswith("--config.")):
            node = config
            for name in flag.partition("=")[0].split(".")[1:]:
                node = node[name]
