"""`crab world`: renders the generated world, or says what one can guess in it."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import sys

from data_pipelines.world import build
from data_pipelines.world.layouts import DATA_SETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="DIR", help="root of all data sets; is continued if it is there"
    )
    parser.add_argument(
        "--clips", type=_count, default=100, metavar="N", help="clips of every train split (default 100)"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="another seed, another world (default 0)")
    parser.add_argument(
        "--jobs", type=_count, default=os.cpu_count() or 1, metavar="J", help="processes (default: one per core)"
    )
    parser.add_argument(
        "--size", type=_size, default=(224, 168), metavar="WxH", help="of all pictures (default 224x168)"
    )
    parser.add_argument("--fps", type=_count, default=4, metavar="F", help="pictures per second of video (default 4)")
    parser.add_argument(
        "--held-out", type=_share, default=0.1, metavar="SHARE",
        help="clips of every other split as a share of N, six at least (default 0.1)",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", nargs="+", choices=[*DATA_SETS, "all"], default=["all"], metavar="TASK",
        help=f"some of: {', '.join(DATA_SETS)} (default all)",
    )  # fmt: skip
    parser.add_argument(
        "--baselines", type=pathlib.Path, metavar="DIR",
        help="render nothing; print what majority, sound alone and picture alone reach in this world",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Renders, or prints the baselines. Returns the exit code."""
    if args.baselines is not None:
        from data_pipelines.world import baselines

        try:
            sys.stdout.write(baselines.report(args.baselines) + "\n")
        except (baselines.BaselineError, build.WorldError, OSError) as error:
            sys.stderr.write(f"crab world: {error}\n")
            return 2
        return 0
    if args.out is None:
        sys.stderr.write("crab world: say where to: --out DIR (or --baselines DIR)\n")
        return 2
    tasks = list(DATA_SETS) if "all" in args.tasks else list(dict.fromkeys(args.tasks))
    try:
        counts = build.build(
            args.out, clips=args.clips, seed=args.seed, tasks=tasks, size=args.size, fps=args.fps, share=args.held_out,
            jobs=args.jobs,
        )  # fmt: skip
    except (build.WorldError, OSError) as error:
        sys.stderr.write(f"crab world: {error}\n")
        return 2
    for task, splits in counts.items():
        sys.stdout.write(f"{task:15} {'  '.join(f'{split} {count}' for split, count in splits.items())}\n")
    return 0


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, found {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, found {text!r}")
    return value


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{2,4})x([0-9]{2,4})", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if width % 2 or height % 2 or min(width, height) < 32:
        raise argparse.ArgumentTypeError(f"expected even WIDTHxHEIGHT of at least 32, such as 224x168, found {text!r}")
    return width, height
