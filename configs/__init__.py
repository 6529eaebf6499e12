"""Experiment configurations: `get_config(arg="")` of each file returns a locked ConfigDict. Used from a checkout."""
