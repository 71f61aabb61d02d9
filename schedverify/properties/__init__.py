"""The properties, one file a family; see ``specs/properties.md``."""

from schedverify.properties import communication, deadlocks, dependencies, memory, performance, structure
from schedverify.properties.base import HEADINGS, REGISTRY, Case, NotApplicable, Property, Undecided

__all__ = [
    "HEADINGS",
    "REGISTRY",
    "Case",
    "NotApplicable",
    "Property",
    "Undecided",
    "communication",
    "deadlocks",
    "dependencies",
    "memory",
    "performance",
    "structure",
]
