"""Tests of the data manager."""
