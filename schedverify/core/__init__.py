"""The values: immutable, without logic beyond their own meaning."""
