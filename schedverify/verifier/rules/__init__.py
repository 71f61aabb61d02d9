"""The properties, one file a family; see ``specs/properties.md``."""

from schedverify.verifier.rules import (
    boundaries,
    buffers,
    communication,
    deadlocks,
    dependencies,
    memory,
    parameters,
    performance,
    structure,
    torch_runtime,
)
from schedverify.verifier.rules.base import HEADINGS, REGISTRY, Case, NotApplicable, Property, Undecided

__all__ = [
    "HEADINGS",
    "REGISTRY",
    "Case",
    "NotApplicable",
    "Property",
    "Undecided",
    "boundaries",
    "buffers",
    "communication",
    "deadlocks",
    "dependencies",
    "memory",
    "parameters",
    "performance",
    "structure",
    "torch_runtime",
]
