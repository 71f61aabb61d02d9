"""The command line: parses, calls, prints; nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see :func:`schedverify.cli.app.main`.

    A process of its own (no ``arguments``) answers signals before it loads anything else.
    """
    if arguments is not None:
        from schedverify.cli import app

        return app.main(arguments)
    from schedverify.cli import signals

    signals.end_at_once(sys.argv[1:])
    from schedverify.cli import app

    code = app.main()
    signals.end_with(code)
    signals.end_beside_threads(code)
    return code
