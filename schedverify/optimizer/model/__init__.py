"""The CP-SAT model: its variables, its rules, and what it minimizes."""
