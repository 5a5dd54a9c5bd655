"""Shoal's data plane: one package per pod role."""
