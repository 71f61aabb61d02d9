"""The timeline of a lowered schedule under a discipline: transfers queue, and late steps say what they waited for."""
