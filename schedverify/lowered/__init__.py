"""The timeline of a lowered schedule under a discipline: transfers queue, and late steps say what they waited for."""

from schedverify.lowered.delays import Delay, delays
from schedverify.lowered.times import simulate_lowered

__all__ = ["Delay", "delays", "simulate_lowered"]
