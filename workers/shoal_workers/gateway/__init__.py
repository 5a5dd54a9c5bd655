"""The front of a fleet: routing, sessions, weight roll-out."""
