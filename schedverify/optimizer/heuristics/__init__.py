"""Good orders without a proof: a list scheduler, and local search."""
