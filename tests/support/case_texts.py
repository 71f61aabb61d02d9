"""Orders and problems that several tests of cases write into files: one that is right, and one that hangs."""

from __future__ import annotations

PROBLEM = "ranks = 2\nmicrobatches = 2\n\n[costs]\nforward = 1\nbackward = 2\n"
RIGHT = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n"
STUCK = "0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1\n"
NESTED = PROBLEM.replace("ranks", "[problem]\nranks").replace("[costs]", "[problem.costs]")
GOOD_TOML = f'schedule = """\n{RIGHT}"""\n{NESTED}'
BAD_TOML = f'about = "it hangs"\nselect = ["SV1", "SV2"]\nschedule = """\n# a comment\n{STUCK}"""\n{NESTED}'
