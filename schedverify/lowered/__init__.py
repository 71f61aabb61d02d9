"""The timeline of a lowered schedule under a discipline: transfers queue, and late steps say what they waited for."""

from schedverify.lowered.times import simulate_lowered

__all__ = ["simulate_lowered"]
