"""Builds Shoal's container images: `python -m images build`. It needs the standard library and pip alone."""
