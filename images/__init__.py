"""Builds Shoal's container images: `python -m images build`. Standard library alone, so that any Python 3.11 runs it."""
