"""The properties, registered by their codes; ``specs/properties.md`` has their texts.

=====================  ===============================================================================
structure              SV101 to SV104: the operations that are needed, each once, where it belongs
dependencies           SV201, SV202: no cycle; a timeline that is handed in is possible
communication          SV301 to SV303: what is sent is received, in one order
deadlocks              SV304: free of deadlock under a discipline
parameters             SV305, SV405: parameters gathered, few at a time; gradients reduced
boundaries             SV306: what crosses is what is declared
memory                 SV401, SV402: what a rank holds stays within its limits
buffers                SV403: messages on their way stay within what a channel holds
outstanding            SV404: sends begun and not yet waited for stay within the limit
performance            SV501, SV503: claims of a schedule, and its makespan within the limit
bounds                 SV502: claims of what no schedule can have less of
torch_runtime          SV701 to SV712: what PyTorch's runtime and torchtitan need
torch_waits            SV721 to SV723: what PyTorch's runtime needs from torch 2.15 on
=====================  ===============================================================================
"""

from schedverify.verifier.rules import (
    boundaries,
    bounds,
    buffers,
    communication,
    deadlocks,
    dependencies,
    memory,
    outstanding,
    parameters,
    performance,
    structure,
    torch_runtime,
    torch_waits,
)
from schedverify.verifier.rules.base import (
    HEADINGS,
    REGISTRY,
    Case,
    More,
    NotApplicable,
    Property,
    Undecided,
    unknown_property,
)

__all__ = [
    "HEADINGS", "REGISTRY", "Case", "More", "NotApplicable", "Property", "Undecided", "boundaries", "bounds", "buffers",
    "communication", "deadlocks", "dependencies", "memory", "outstanding", "parameters", "performance", "structure",
    "torch_runtime", "torch_waits", "unknown_property",
]  # fmt: skip
