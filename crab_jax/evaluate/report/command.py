"""`crab report`: the page of an evaluation once more, without a model."""

from __future__ import annotations

import argparse
import pathlib
import re
import sys

from crab_jax.evaluate import ablation, baselines
from crab_jax.evaluate.report.page import GALLERY, REPORT, write_report
from crab_jax.evaluate.write_table import write_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab report`."""
    path = pathlib.Path
    parser.add_argument("results", type=path, metavar="DIR", help="what `crab eval` was given as --out")
    parser.add_argument("--shards", type=path, metavar="DIR", help="the data sets; without them there is no gallery")
    parser.add_argument("--baselines", type=path, metavar="DIR", help="root of the generated world, as for `crab eval`")
    parser.add_argument(
        "--ablation", type=path, metavar="DIR", help="what `launch.ablation` wrote, to be shown as well"
    )
    parser.add_argument(
        "--gallery", type=_count, default=GALLERY, metavar="N",
        help=f"right answers of every test set, and as many others (default: {GALLERY})",
    )  # fmt: skip
    parser.add_argument("--out", type=path, metavar="FILE", help=f"of the page (default: {REPORT} among the results)")


def main(args: argparse.Namespace) -> int:
    """Runs `crab report`; writes the table again, too.

    Returns:
        0, 1 if something could not be used, 2 if there is nothing to report on or the page cannot be written.
    """
    try:
        if args.baselines is not None:
            baselines.bring(args.baselines, args.results)
        if args.ablation is not None:
            ablation.bring(args.ablation, args.results)
        told = write_report(args.results, args.shards, items=args.gallery, path=args.out)
        write_table(args.results)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for line in told:
        sys.stderr.write(f"warning: {line}\n")
    sys.stdout.write(f"{args.out or args.results / REPORT}\n")
    return 1 if told else 0


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, found {text!r}")
    return int(text)
