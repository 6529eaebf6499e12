"""Whether a run fits a TPU slice and how fast it can be, from a compilation ahead of time; no TPU is needed."""
