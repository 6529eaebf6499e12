"""`crab eval`: asks a model everything in the test sets of shards, and makes one table of it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import re
import sys
import time

import jax
from tqdm import tqdm

from crab_jax.api import Assistant, load
from crab_jax.assets import weights_folder
from crab_jax.evaluate import ablation, baselines, journal, run, table
from crab_jax.evaluate.generate import REFERENCE_SAMPLING, Sampling
from crab_jax.evaluate.plan import EvaluationError, about, check_pictures, plan, settings_of
from crab_jax.evaluate.report.findings import SPEED
from crab_jax.evaluate.report.page import GALLERY, REPORT, ReportError, write_report
from crab_jax.evaluate.rescore import score_file
from crab_jax.evaluate.routing import ITEMS, write_router
from crab_jax.evaluate.run import Run
from crab_jax.evaluate.score import ScoreError, item_ids
from crab_jax.evaluate.write_table import write_table
from crab_jax.tasks import TASKS, Wording
from data_pipelines.stream.tables import StreamError

GALLERY_HELP = "right answers of every test set on the page, and as many others; 0: no pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab eval`."""
    path = pathlib.Path
    add = parser.add_argument
    add("--shards", type=path, metavar="DIR", help="made by `crab data build`")
    add("--weights", type=weights_folder, metavar="DIR", help="made by `crab convert`; or mini, which comes along")
    add("--out", type=path, metavar="DIR", help="answers, masks, scores, table; is continued if it is there")
    add("--task", default="all", metavar="TASKS", help=f"all that are in the shards, or some of: {','.join(TASKS)}")
    add(
        "--split", default="test", metavar="NAME",
        help="test (default) stands for all test splits of a data set, or for val where it has none",
    )  # fmt: skip
    add(
        "--mode", choices=("decoded", "teacher-forced", "both"), default="both",
        help="masks of what the model says, of the true text, or both (default); other tasks are always decoded",
    )  # fmt: skip
    add(
        "--swap", choices=("sound", "picture", "compare"),
        help="give every question the sound, or the pictures, of another clip; compare: as it is and both of these",
    )  # fmt: skip
    add("--limit", type=_count, metavar="N", help="only the first N items of each test set")
    add(
        "--score", type=path, metavar="FILE",
        help="without a model: score a file of answers, a JSON object with 'id' and 'text' per line",
    )  # fmt: skip
    add = parser.add_argument_group("the report").add_argument
    add(
        "--baselines", type=path, metavar="DIR",
        help="root of the generated world that the shards were built from: what one sense alone reaches stands beside",
    )  # fmt: skip
    add("--ablation", type=path, metavar="DIR", help="what `launch.ablation` wrote, to be shown as well")
    add("--gallery", type=_number, default=GALLERY, metavar="N", help=f"{GALLERY_HELP} (default: {GALLERY})")
    add(
        "--router", type=_number, default=ITEMS, metavar="N",
        help=f"items per test set over which router weights are averaged; 0: not at all (default: {ITEMS})",
    )  # fmt: skip
    add = parser.add_argument_group("how to answer").add_argument
    add("--wording", choices=[w.value for w in Wording], default=Wording.QUICK_START.value)
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="float32: parity mode")
    add("--batch", type=_count, default=8, metavar="N", help="items at once (default: 8)")
    add("--max-new-tokens", type=_count, metavar="N", help="instead of each task's own limit")
    add("--variant", metavar="NAME", help="answer every task with one set of weights: text, avs or avss")
    add("--sample", action="store_true", help="draw tokens as the reference does (0.6, top-k 50, top-p 0.9)")
    add("--seed", type=int, default=0, metavar="N", help="of the random key when drawing")
    add = parser.add_argument_group("several processes").add_argument
    add("--part", type=_part, metavar="K/N", help="only the K-th of N shares, counted from 0")
    add("--distributed", action="store_true", help="one share per process of the cluster this runs on (TPU, Slurm, …)")


def main(args: argparse.Namespace) -> int:
    """Runs `crab eval`; the table goes to stdout, progress and problems to stderr.

    Returns:
        0 if every item was answered (understood or not), 1 if any failed or something does not fit, 2 if nothing could
        be started or the results cannot be written.
    """
    try:
        return _score(args) if args.score is not None else _evaluate(args)
    except (OSError, ValueError) as error:  # all errors of our own are ValueErrors
        sys.stderr.write(f"error: {error}\n")
        return 2


def _evaluate(args: argparse.Namespace) -> int:
    for name in ("shards", "weights", "out"):
        if getattr(args, name) is None:
            raise EvaluationError(f"expected --{name} DIR; only --score FILE does without")
    wording = Wording(args.wording)
    chosen = {"shards": args.shards, "tasks": args.task, "split": args.split, "wording": wording}
    if args.swap == "compare":
        runs = plan(**chosen, mode=args.mode)
        # What the model says itself is what is compared, unless only given texts are asked for.
        mode = "teacher-forced" if args.mode == "teacher-forced" else "decoded"
        runs += [each for swap in ("sound", "picture") for each in plan(**chosen, mode=mode, swap=swap)]
    else:
        runs = plan(**chosen, mode=args.mode, swap=args.swap)
    if args.distributed:
        jax.distributed.initialize()
    process, processes = args.part or (jax.process_index(), jax.process_count())
    sampling = dataclasses.replace(REFERENCE_SAMPLING, seed=args.seed) if args.sample else Sampling(seed=args.seed)
    settings = settings_of(
        args.weights, dtype=args.dtype, wording=wording, sampling=sampling, variant=args.variant,
        max_new_tokens=args.max_new_tokens,
    )  # fmt: skip
    check_pictures(runs, settings["model"].get("image_size"))  # before a folder belongs to these shards
    counts = {each.folder: len(item_ids(each.source, args.limit)) for each in runs}
    journal.claim(args.out, settings)
    if args.baselines is not None:
        baselines.bring(args.baselines, args.out)
    if args.ablation is not None:
        ablation.bring(args.ablation, args.out)
    for each in runs:  # before the weights, which may take minutes
        journal.claim(args.out / each.folder, settings | about(each))
    started = time.perf_counter()
    assistant = load(
        args.weights, dtype=args.dtype, wording=wording, sampling=sampling, max_batch=args.batch,
        tasks=list(dict.fromkeys(each.source.shards.task for each in runs)), variant=args.variant,
        devices=jax.local_devices(),
    )  # fmt: skip
    # One program per shape: a last batch that is padded costs less than compiling another size of batch.
    engine = assistant.engine
    engine.buckets = dataclasses.replace(engine.buckets, batch=(engine.max_batch,))
    sys.stderr.write(f"weights loaded in {time.perf_counter() - started:.1f} s\n")
    failed = 0
    # In a log, where a bar cannot move, it is a line now and then.
    pace = {} if sys.stderr.isatty() else {"mininterval": 30, "maxinterval": 60}
    # Other processes' items are not this one's to wait for.
    with tqdm(total=sum(counts.values()) // processes, unit="item", file=sys.stderr, **pace) as bar:
        for each in runs:
            bar.set_description(each.name)
            try:
                failed += _one(each, assistant, args, process, processes, bar)
            except (ScoreError, StreamError) as error:  # of this test set; the others are not lost
                bar.write(f"{each.name}: {error}", file=sys.stderr)
                failed += 1
    text, broken = write_table(args.out)
    try:
        told = write_report(args.out, args.shards, items=args.gallery)
        page = f", and look at {args.out / REPORT}"
    except ReportError:  # other shares are still open
        told, page = [], ""
    for line in dict.fromkeys([*broken, *told]):
        sys.stderr.write(f"warning: {line}\n")
    sys.stdout.write(table.headlines(text))
    sys.stderr.write(f"see all numbers in {args.out / 'table.md'}{page}\n")
    return 1 if failed or broken else 0


def _one(each: Run, assistant: Assistant, args: argparse.Namespace, process: int, processes: int, bar: tqdm) -> int:
    """One run; returns how many problems it had."""
    folder = args.out / each.folder

    def tell(text: str) -> None:
        bar.write(f"{each.name}: {text}", file=sys.stderr)

    tally = run.answer_items(
        each, assistant, folder, limit=args.limit, process=process, processes=processes,
        max_new_tokens=args.max_new_tokens, progress=bar.update, tell=tell,
    )  # fmt: skip
    if args.router and process == 0 and each.mode == "decoded" and each.swap is None:
        try:
            write_router(each, assistant, folder, items=args.router)
        except (ValueError, jax.errors.JaxRuntimeError) as error:  # the answers are not lost
            tell(f"no router weights: {error}")
    if tally.items:
        _write_speed(args.out, each, tally)
        tell(_speed(tally))
    scored = run.finish(each, folder, limit=args.limit)
    if isinstance(scored, str):
        tell(scored)
        return tally.failed
    for line in scored.told():
        tell(line)
    return sum(map(len, scored.problems.values()))


def _score(args: argparse.Namespace) -> int:
    scored, text = score_file(
        args.score, shards=args.shards, task=None if args.task == "all" else args.task, split=args.split,
        limit=args.limit, out=args.out,
    )  # fmt: skip
    for line in scored.told():
        sys.stderr.write(f"{args.score}: {line}\n")
    sys.stdout.write(text)
    return 1 if any(scored.problems.values()) else 0


def _speed(tally: run.Tally) -> str:
    share = tally.compile_s / tally.seconds if tally.seconds else 0.0
    rate = tally.items / tally.seconds if tally.seconds else 0.0
    return f"{tally.items} items in {tally.seconds:.1f} s, {rate:.2f} items/s, {share:.0%} of the time compiling"


def _write_speed(out: pathlib.Path, each: Run, tally: run.Tally) -> None:
    """Times of every run, added up where one was continued; not in the table, which does not depend on the machine."""
    path = out / SPEED
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    device = jax.local_devices()[0]
    with contextlib.suppress(KeyError, TypeError):
        before = known[each.name]
        if before["device"] == device.device_kind and before["devices"] == jax.local_device_count():
            sums = {f.name: getattr(tally, f.name) + before[f.name] for f in dataclasses.fields(tally)}
            tally = run.Tally(**sums)
    known[each.name] = tally.to_json() | {"device": device.device_kind, "devices": jax.local_device_count()}
    journal.publish(path, json.dumps(known, indent=1).encode() + b"\n")


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, found {text!r}")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 0 to N - 1, found {text!r}")
    return int(found[1]), int(found[2])
