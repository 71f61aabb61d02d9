"""The count relaxation: a linear program over how many operations have started by each tick, and proofs from it."""
