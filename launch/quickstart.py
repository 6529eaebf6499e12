"""Shows what the project does: a small Crab watches and listens to clips it has never met, and is scored.

    python -m launch.quickstart [--out runs/quickstart] [--seed 0] [--clips 2]

Renders clips of the nine tasks, builds shards, asks the model that comes with the project, and scores the answers. If
no trained model comes along, a tiny random one takes its place, and the last lines say so. It may be run again at any
time: what is there is continued, and answers of another model or to other questions have another folder.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

TRAINED_ON = 11  # seed of the world of crab-mini, see launch/train_mini.sh
SIZE = (160, 120)
DTYPE = "float32"
TOKENS = 160  # of an answer at most


def main(argv: list[str] | None = None) -> int:
    """Renders, builds, answers, scores. Returns the exit code of the step that failed, or of `crab eval`."""
    parser = argparse.ArgumentParser(prog="launch.quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/quickstart"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the clips (default 0)")
    parser.add_argument("--clips", type=int, default=2, metavar="N", help="of every test set (default 2)")
    args = parser.parse_args(argv)
    if args.seed == TRAINED_ON:
        parser.error(f"--seed {TRAINED_ON}: the model was trained on the world of this seed; choose another")
    # Heavy imports after the arguments: `--help` answers at once.
    from crab_jax import assets, cli
    from crab_jax.checkpoint import read_manifest
    from crab_jax.tasks import TASKS
    from data_pipelines.world import build

    # One folder per choice and version of the world: it is continued, never mixed.
    out = args.out / f"seed{args.seed}-clips{args.clips}-v{build.VERSION}"
    spent: dict[str, float] = {}
    with timed("rendering clips of the nine tasks", spent):
        build.build(
            out / "world", clips=1, share=0, least=args.clips, seed=args.seed, tasks=tuple(TASKS), size=SIZE, fps=1,
            jobs=os.cpu_count() or 1,
        )  # fmt: skip
    weights = assets.weights_folder("mini")
    trained = (weights / "crab.json").is_file()
    if not trained:
        weights = args.out / "random_weights"
        with timed("making a tiny random model", spent):
            write_random_weights(weights, seed=args.seed)
    size = read_manifest(weights)["config"]["clip"]["image_size"]
    shards = out / f"shards-{size}px"
    with timed("building shards", spent):
        code = cli.main(
            ["data", "build", *TASKS, "--root", str(out / "world"), "--out", str(shards), "--size", str(size)]
        )
    if code:
        return code
    answers = out / f"answers-{digest_of_evaluation(shards, weights)}"
    with timed("answering and scoring", spent):
        code = cli.main(
            ["eval", "--shards", str(shards), "--weights", str(weights), "--out", str(answers)]
            + ["--mode", "decoded", "--max-new-tokens", str(TOKENS), "--dtype", DTYPE, "--batch", "4"]
            + ["--limit", str(2 * args.clips), "--swap", "compare"]  # does it listen, does it look?
            + [f"--{name}={file}" for name in ("baselines", "ablation") if (file := weights / f"{name}.json").is_file()]
        )
    if code:
        return code
    sys.stdout.write("\n")
    before = float(os.environ.get("CRAB_JAX_SETUP_S", 0))
    for name, seconds in {"packages": before, **spent, "all of it": before + sum(spent.values())}.items():
        sys.stdout.write(f"{seconds:7.1f} s  {name}\n")
    if not trained:
        sys.stdout.write(
            "\nNo trained model comes with the project: this one is tiny and RANDOM, its answers are nonsense.\n"
        )
    else:
        sys.stdout.write(
            "\nThe model is crab-mini (docs/mini.md says how it was trained, and what it can and cannot do). What one\n"
            "can guess without it, on the page, was measured on the larger test sets of that document; the ablation\n"
            "is that of docs/ablation.md.\n"
        )
    sys.stdout.write(
        f"  clips    {out / 'world'}\n"
        f"  scores   {answers / 'table.md'}\n"
        f"  page     {answers / 'report.html'}\n"
        f"Your own video:\n"
        f'  crab infer --task avqa --video clip.mp4 --question "How many instruments play?" --weights {weights}\n'
    )
    return 0


def digest_of_evaluation(shards: pathlib.Path, weights: pathlib.Path) -> str:
    """A short name for all that the answers depend on; `crab eval` refuses a folder of other ones."""
    from crab_jax.evaluate import plan
    from crab_jax.evaluate.generate import Sampling
    from crab_jax.tasks import Wording

    wording = Wording.QUICK_START
    settings = plan.settings_of(weights, dtype=DTYPE, wording=wording, sampling=Sampling(), max_new_tokens=TOKENS)
    runs = plan.plan(shards, tasks="all", split="test", wording=wording, mode="decoded")
    told = json.dumps([settings, *map(plan.about, runs)])
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def write_random_weights(folder: pathlib.Path, *, seed: int) -> None:
    """A weights folder of the toy size, with the tokenizer that comes with the project.

    The rows of the mask tokens in the output matrix are enlarged: a random model would almost never say the six mask
    tokens, and the quickstart is meant to show masks, too.
    """
    import jax
    import numpy as np

    from configs import tiny
    from crab_jax import checkpoint
    from crab_jax.config import build
    from crab_jax.model import CrabConfig, init
    from crab_jax.tokens import Tokenizer

    config = build(CrabConfig, tiny.get_config().model.to_dict())
    params = {path: np.array(leaf) for path, leaf in init(config, jax.random.key(seed)).items()}
    params["llama/head/kernel"][:, list(config.token_ids.masks)] *= 4
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = pathlib.Path(scratch) / "tokenizer.model"
        tokenizer.write_bytes(Tokenizer.tiny().model)
        # One file has the same bytes each time, so that answers of the same model are continued.
        checkpoint.save(folder, config=config, params=params, tokenizer=tokenizer, single_file=True, overwrite=True)


@contextlib.contextmanager
def timed(name: str, spent: dict[str, float]) -> Iterator[None]:
    """Says what is going on, and remembers how long it took."""
    sys.stderr.write(f"== {name}\n")
    started = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - started


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a toy is faster where it need not be compiled for an accelerator
    sys.exit(main())
