"""What crosses between stages: messages and their names, transfers, waits, and the contracts of boundaries."""
