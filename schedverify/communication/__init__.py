"""Sends and receives of a lowered schedule: what each moves, what happens before what, and who waits for whom."""

from schedverify.communication.events import EventGraph, meetings
from schedverify.communication.occurrences import Occurrences
from schedverify.communication.stalls import Stalls
from schedverify.communication.transfers import Flaw, Transfers

__all__ = ["EventGraph", "Flaw", "Occurrences", "Stalls", "Transfers", "meetings"]
