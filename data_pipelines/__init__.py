"""Media in, data sets and their shards, the packed stream, and the generated world."""
