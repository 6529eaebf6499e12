"""Training that knows no Crab: it works on anything with the shape of `step.System`."""
