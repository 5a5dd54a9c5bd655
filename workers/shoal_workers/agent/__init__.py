"""Runs episodes: harnesses, budgets."""
