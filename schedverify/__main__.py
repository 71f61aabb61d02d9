"""``python -m schedverify`` is the command line."""

import sys

from schedverify.cli import main

sys.exit(main())
