"""`crab infer`: answers a file of samples, or one question, and writes what came out."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from crab_jax import draw
from crab_jax.api import Assistant, Failure, Result, SampleError, WeightsError, load
from crab_jax.checkpoint import CheckpointError
from crab_jax.config import ConfigError
from crab_jax.evaluate.generate import REFERENCE_SAMPLING, Sampling
from crab_jax.tasks import TASKS, Unparsed, Wording
from crab_jax.tasks.samples import BrokenSample, Sample, SamplesError, read_sample, read_samples
from crab_jax.tokens import TokenizerError

RESULTS = "results.jsonl"
QUESTION_FIELDS = {
    "video": "video_path", "image": "image_path", "audio": "audio_path", "mask": "mask_path",
    "question": "question", "exp": "exp", "second": "second",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `crab infer`."""
    path = pathlib.Path
    parser.add_argument("samples", nargs="?", type=path, metavar="SAMPLES.json", help="list of samples, or use --task")
    parser.add_argument("--weights", type=path, required=True, metavar="DIR", help="made by `crab convert`")
    parser.add_argument("--out", type=path, metavar="DIR", help="results, masks and pictures (default: crab_results)")
    one = parser.add_argument_group("one question, without a file")
    one.add_argument("--task", choices=TASKS, help="; ".join(f"{name}: {spec.about}" for name, spec in TASKS.items()))
    one.add_argument("--video", metavar="FILE", help="also gives the sound if there is no --audio")
    one.add_argument("--image", metavar="FILE")
    one.add_argument("--audio", metavar="FILE")
    one.add_argument("--mask", metavar="FILE", help="true mask, to compare with")
    one.add_argument("--question", metavar="TEXT", help="avqa")
    one.add_argument("--exp", metavar="TEXT", help="ref-avs: what to segment")
    one.add_argument("--second", type=int, metavar="N", help="second of the sound that the image belongs to")
    how = parser.add_argument_group("how to answer")
    how.add_argument("--wording", choices=[w.value for w in Wording], default=Wording.QUICK_START.value)
    how.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="float32: parity mode")
    how.add_argument("--batch", type=int, default=8, metavar="N", help="samples at once (default: 8)")
    how.add_argument("--max-new-tokens", type=int, metavar="N", help="instead of each task's own limit")
    how.add_argument("--variant", metavar="NAME", help="answer every task with one set of weights: text, avs or avss")
    how.add_argument(
        "--sample", action="store_true", help="draw tokens as the reference does (0.6, top-k 50, top-p 0.9)"
    )
    how.add_argument("--temperature", type=float, metavar="T", help="0 is greedy, the default")
    how.add_argument("--top-k", type=int, metavar="K")
    how.add_argument("--top-p", type=float, metavar="P")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the random key when drawing")
    parser.add_argument("--no-pictures", action="store_true", help="only results.jsonl and masks")


def run(args: argparse.Namespace) -> int:
    """Runs `crab infer`; answers go to stdout, progress and problems to stderr.

    Returns:
        0 if every sample was answered (understood or not), 1 if any failed, 2 if nothing could be started.
    """
    try:
        samples = _samples(args)
        sampling = _sampling(args)
        if args.batch < 1 or (args.max_new_tokens is not None and args.max_new_tokens < 1):
            raise SampleError("--batch and --max-new-tokens must be at least 1")
        out = _folder(args.out)
        tasks = sorted({s.task for s in samples if isinstance(s, Sample)})
        started = time.perf_counter()
        assistant = load(
            args.weights,
            dtype=args.dtype,
            wording=args.wording,
            sampling=sampling,
            max_batch=args.batch,
            tasks=tasks,
            variant=args.variant,
        )
        sys.stderr.write(f"weights loaded in {time.perf_counter() - started:.1f} s\n")
    except (SamplesError, SampleError, WeightsError, CheckpointError, ConfigError, TokenizerError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    failed = answer_all(
        assistant,
        samples,
        out,
        max_new_tokens=args.max_new_tokens,
        pictures=not args.no_pictures,
        one=args.task is not None,
    )
    return 1 if failed else 0


def answer_all(
    assistant: Assistant,
    samples: list[Sample | BrokenSample],
    out: pathlib.Path,
    *,
    max_new_tokens: int | None = None,
    pictures: bool = True,
    one: bool = False,
    chunk: int = 64,
) -> int:
    """Answers samples chunk by chunk, so that results appear while the rest still runs.

    Args:
        assistant: loaded model.
        samples: as read.
        out: an existing folder; `results.jsonl` in it is replaced.
        max_new_tokens: limit of the answers, if not the tasks' own.
        pictures: also draw one picture per answer.
        one: say the answer itself on stdout instead of a line per sample.
        chunk: how many samples are read into memory at once.

    Returns:
        Number of samples that failed.
    """
    # A bar on a terminal has to move out of the way of every line.
    say = (lambda text: tqdm.write(text, file=sys.stdout, end="")) if sys.stderr.isatty() else sys.stdout.write
    counts = {"answered": 0, "understood": 0, "failed": 0}
    problems: list[str] = []
    with (
        open(out / RESULTS, "w", encoding="utf-8") as file,
        tqdm(total=len(samples), unit="sample", file=sys.stderr, disable=one, desc="infer") as bar,
    ):
        for start in range(0, len(samples), chunk):
            part = samples[start : start + chunk]
            for sample, result in zip(
                part, assistant.answer(part, max_new_tokens=max_new_tokens, progress=bar.update), strict=True
            ):
                record = _record(sample, result, out, pictures=pictures)
                _write(file, record)
                if isinstance(result, Failure):
                    counts["failed"] += 1
                    problems.append(f"{record['id']} ({record['task'] or 'no task'}): {result.reason}")
                    continue
                counts["answered"] += 1
                counts["understood"] += result.parsed
                problems += [f"{record['id']} ({record['task']}): {problem}" for problem in record.get("problems", [])]
                say(_line(result, record, out, full=one) + "\n")
    for problem in problems:
        sys.stderr.write(f"failed: {problem}\n")
    if not one:
        sys.stderr.write(
            f"{counts['answered']} answered ({counts['understood']} understood), {counts['failed']} failed; "
            f"see {out / RESULTS}\n"
        )
    return counts["failed"]


def _samples(args: argparse.Namespace) -> list[Sample | BrokenSample]:
    given = {field: getattr(args, name) for name, field in QUESTION_FIELDS.items() if getattr(args, name) is not None}
    wording = Wording(args.wording)
    if args.samples is not None:
        if args.task is not None or given:
            raise SampleError("give either SAMPLES.json or --task with its media, not both")
        return read_samples(args.samples, wording=wording)
    if args.task is None:
        raise SampleError("nothing to answer: give SAMPLES.json, or --task with its media")
    sample = read_sample({"task": args.task, **given}, wording=wording)
    if isinstance(sample, BrokenSample):
        flags = {f"'{field}'": f"--{name}" for name, field in QUESTION_FIELDS.items()}
        reason = sample.reason
        for field, flag in flags.items():
            reason = reason.replace(field, flag)
        raise SampleError(reason)
    return [sample]


def _sampling(args: argparse.Namespace) -> Sampling:
    base = REFERENCE_SAMPLING if args.sample else Sampling()
    chosen = {k: getattr(args, k) for k in ("temperature", "top_k", "top_p") if getattr(args, k) is not None}
    if not args.sample and chosen and "temperature" not in chosen:
        raise SampleError("--top-k and --top-p need --temperature above 0, or --sample")
    return Sampling(
        **{"temperature": base.temperature, "top_k": base.top_k, "top_p": base.top_p} | chosen, seed=args.seed
    )


def _folder(out: pathlib.Path | None) -> pathlib.Path:
    out = out or pathlib.Path("crab_results")
    if out.exists() and not out.is_dir():
        raise SampleError(f"--out {out}: a file, expected a folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _record(
    sample: Sample | BrokenSample, result: Result | Failure, out: pathlib.Path, *, pictures: bool
) -> dict[str, Any]:
    """One line of results.jsonl; writes the files that belong to it."""
    if isinstance(result, Failure):
        raw = result.raw if isinstance(result.raw, dict) else {}
        name, task = raw.get("id", str(result.index)), raw.get("task")
        return {"index": result.index, "id": name, "task": task, "ok": False, "error": result.reason}
    record: dict[str, Any] = {
        "index": result.sample.index,
        "id": result.sample.id,
        "task": result.sample.task,
        "ok": True,
        "prompt": result.prompt,
        "text": result.text,
        "parsed": result.parsed,
        "answer": result.value.to_json(),
        "tokens": result.tokens,
        "finished": result.finished,
        "seconds": dict(result.seconds),
        "notes": list(result.notes),
    }
    name = f"{result.sample.id}_{result.sample.task}"
    files: dict[str, str] = {}
    if result.mask is not None:
        files["mask"] = f"{name}_mask.png"
        write = draw.write_semantic_png if TASKS[result.sample.task].semantic else draw.write_mask_png
        write(out / files["mask"], result.mask)
    if pictures:
        try:
            files["picture"] = f"{name}.png"
            result.picture().save(out / files["picture"])
        except (ValueError, OSError) as error:  # a mask that cannot be read must not cost the answer
            del files["picture"]
            record["problems"] = [f"no picture: {error}"]
    return record | {"files": files}


def _write(file: TextIO, record: dict[str, Any]) -> None:
    # A line at a time: what was answered stays if something later goes wrong.
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()


def _line(result: Result, record: dict[str, Any], out: pathlib.Path, *, full: bool) -> str:
    """What a person sees of one answer."""
    value = result.value
    if isinstance(value, Unparsed):
        shown = f"not understood: {value.reason}"
    else:
        shown = ", ".join(
            f"{k}={v}" for k, v in value.to_json().items() if k not in ("kind", "text") and v not in (None, [])
        )
        shown = shown or result.text
    where = record["files"].get("mask") or record["files"].get("picture")
    if full:
        lines = [result.text or "(empty answer)", f"→ {shown}"]
        lines += [f"→ {out / file}" for file in record["files"].values()]
        lines += [f"note: {note}" for note in result.notes]
        return "\n".join(lines)
    return f"{result.sample.id:>4s} {result.sample.task:8s} {shown}" + (f"  [{where}]" if where else "")
