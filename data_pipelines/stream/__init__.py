"""From shards to batches: a shuffled, mixed, packed and resumable stream, the same for any number of processes.

tables      what examples there are and how large each will be, from the indices of the shards
mixture     the endless sequence of examples, in blocks; a pure function of the seed
packing     blocks → rows that fit a `Layout`; row k is a pure function of seed and k
rows        row numbers → arrays: reads, decodes, tokenises, lays out
loader      the iterator: workers, state, budgets; the only file that imports Grain
evaluation  every example of a split once, in order

All but `loader` is free of jax (Grain imports it).
"""
