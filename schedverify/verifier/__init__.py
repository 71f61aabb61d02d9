"""Judges schedules: properties, what they need to know of an order, and the evidence of claimed bounds."""
