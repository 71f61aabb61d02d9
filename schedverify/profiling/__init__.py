"""Measures the blocks of a model, and the links of a process group, for a model file that ``partition`` takes."""

from schedverify.profiling.figures import BlockProfile, Figure, LinkProfile, ModelProfile
from schedverify.profiling.session import ProfileSettings, measure

__all__ = ["BlockProfile", "Figure", "LinkProfile", "ModelProfile", "ProfileSettings", "measure"]
