"""Benchmarks behind `python -m launch.bench`: each number beside a limit or a second form."""
