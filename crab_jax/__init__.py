"""Crab in JAX."""
