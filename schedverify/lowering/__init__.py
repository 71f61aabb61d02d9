"""Lowering: passes without state, from a schedule to a schedule, that put communication into the orders."""

from schedverify.lowering.insertion import add_communication

__all__ = ["add_communication"]
