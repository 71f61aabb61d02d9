"""Families of schedules by name: from a problem to the order that a paper gives it."""

from schedverify.generators.registry import Family, families, family, generate, usual_family

__all__ = ["Family", "families", "family", "generate", "usual_family"]
