"""Comparison with recorded cases; a package, so that its files may be named like those one folder up."""
