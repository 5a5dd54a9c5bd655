"""Generates crds/*.yaml from the resource models."""
