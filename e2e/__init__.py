"""Scenarios on whole systems: real control plane, real engines, real trainer."""
