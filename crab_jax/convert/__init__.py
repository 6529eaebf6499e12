"""Published PyTorch files to weights folders and back, without torch."""
