"""Kueue: jobs that wait for quota."""
