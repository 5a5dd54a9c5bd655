"""Pure decisions: (spec, observed, now) -> actions and status. No I/O, no clock, no asyncio.

`sizing` says how many pods there should be, `podset` which to create and which to delete, `health` what is wrong with
them,
`conditions` how that is told; `pool`, `fleet` and `job` put these together, one per kind.
"""
