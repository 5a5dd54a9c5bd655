"""Serves an environment inside a member pod: adapters and the lease guard."""
