"""Measures the blocks of a model, and the links of a process group, for a model file that ``partition`` takes."""

from schedverify.profiling.figures import BlockProfile, Figure, Link, Profile
from schedverify.profiling.session import Settings, profile

__all__ = ["BlockProfile", "Figure", "Link", "Profile", "Settings", "profile"]
