"""The networks: each file holds config, modules, logical axes and the names of its published tensors."""
