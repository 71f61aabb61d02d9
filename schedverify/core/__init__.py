"""The values: immutable, without logic beyond their own meaning."""

from typing import Final

VERSION: Final = "0.1.0"
"""That of the package, as ``schedverify.__version__``."""
