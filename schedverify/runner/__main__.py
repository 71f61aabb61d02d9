"""``torchrun … -m schedverify.runner PLAN --model MODULE:FUNCTION``: the command ``run``, as one process of many."""

from __future__ import annotations

import sys

from schedverify.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
