"""The exit codes that others rely on."""

from typing import Final

OK: Final = 0
"""What was selected holds, or the command did its work."""
VIOLATED: Final = 1
"""A property is violated, or a problem is proved infeasible."""
WRONG_INPUT: Final = 2
"""Wrong usage or unreadable input."""
UNDECIDED: Final = 3
"""A selected property, or the whole question, stayed open."""
