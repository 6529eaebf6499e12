"""Benchmarks behind `python -m launch.bench`: every number stands beside a limit or a second form."""
