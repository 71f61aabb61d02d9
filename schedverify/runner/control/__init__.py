"""What ranks tell each other beside the tensors: verdicts, clocks, logs, and why one ends."""
