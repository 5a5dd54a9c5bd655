"""Leases: queue, matching, expiry, recycling."""
