"""Pure decisions: (spec, observed, now) -> actions and status. No I/O, no clock, no asyncio."""
