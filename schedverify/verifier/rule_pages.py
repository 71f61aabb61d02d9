"""What a code means: the same text for ``explain CODE``, for the docs and for ``specs/properties.md``."""

from __future__ import annotations

from schedverify.verifier.rules import HEADINGS, REGISTRY, Property, unknown_property


def property_page(code: str) -> str:
    """Return the page of a property in Markdown: what it checks, why it matters, an example, and formally.

    Raises
    ------
    UnknownNameError
        If there is no such code; names the nearest, or those whose name has the word.
    """
    prop = REGISTRY.get(code.strip().upper())
    if prop is None:
        raise unknown_property(code)
    return _page(prop)


def all_pages() -> str:
    """Return the pages of all properties, in the order of their codes: the content of ``specs/properties.md``."""
    return _PREFACE + "\n".join(_page(prop) for _, prop in sorted(REGISTRY.items()))


def _page(prop: Property) -> str:
    summary = prop.text.partition("\n")[0]
    parts = [f"## {prop.code}: {prop.name}", summary, f"Scope: {prop.scope}."]
    for heading in HEADINGS:
        parts += [f"### {heading}", prop.section(heading)]
    return "\n\n".join(parts) + "\n"


_PREFACE = """# Properties

What is proved about a schedule, code by code. `schedverify explain CODE` prints the same text. In a verdict's scope,
*every duration* means that it depends on the orders alone, *these costs* that it holds for the problem's costs, and
*as read from the file* that the problem was read off the schedule itself.

Where a schedule has faults, the properties read it like this. An operation that is out of range, or that the form does
not admit, is reported by SV101 and seen by no other property. An operation's main instance is its first occurrence on
each rank of its stage, taken as one; where it stands on none of them, its first occurrence on the lowest rank that has
it. Others wait for the main instance; any further one reads the same inputs, and nobody waits for it. Where a B stands
beside an I, a reader waits for both. SV103 reports what stands nowhere; what stands on a wrong rank only, SV102.
Memory (SV4) counts what stands in a rank's own order: a second F holds its pair again, a W frees only what its I has
left, and a backward whose F does not stand there frees nothing. In an excerpt, a pair whose F stands nowhere is held
from the beginning, in full where its B or I follows, else with the stash that its W frees.

"""
