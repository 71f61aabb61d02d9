"""What layers cost: decoders by their shape, and degrees of parallelism on a cluster."""
