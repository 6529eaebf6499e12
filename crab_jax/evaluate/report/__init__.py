"""One HTML file about an evaluation: scores, baselines, right and wrong items, router, time. No jax here."""
