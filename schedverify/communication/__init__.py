"""Sends and receives of a lowered schedule: what each moves, what happens before what, and who waits for whom."""
