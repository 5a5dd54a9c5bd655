"""Which rows go through the model together: micro-batches that compute little for nothing.

Rows of like length lie side by side; others are packed one after the other in bins, kept apart by position ids. A plan
depends on lengths and budget alone, so that every process of a job makes the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal_workers.trainer.batching import TrainRows

USEFUL_SHARE = 0.95
"""Rows lie side by side where at least this share of the rectangle is tokens; packing costs a mask, padding as much as
tokens do."""
BIN_TOKENS = 512
"""Least size of a bin: attention over a bin costs the square of its length; one bin each is too many for short rows."""

Plan = list[list[list[int]]]
"""Micro-batches of bins of rows."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows as the model takes them: n bins of at most T tokens.

    `token_ids` [n, T]; `position_ids` [n, T] restart with every row, None where each bin has one row. Of its m sampled
    tokens `places` [m] are the flat indices in [n * T] of the tokens before them, `targets` [m] their ids, and `tokens`
    [m] their numbers among the batch's sampled tokens. `used` counts the tokens that are no padding.
    """

    token_ids: Tensor
    position_ids: Tensor | None
    places: Tensor
    targets: Tensor
    tokens: Tensor
    used: int

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        positions = None if self.position_ids is None else self.position_ids.to(device)
        return MicroBatch(
            self.token_ids.to(device),
            positions,
            self.places.to(device),
            self.targets.to(device),
            self.tokens.to(device),
            self.used,
        )

    @property
    def computed(self) -> int:
        """Tokens that go through the model, padding included."""
        return self.token_ids.numel()


def plan(
    lengths: Sequence[int], rows: Sequence[int], budget: int, packed: bool = True, most: int | None = None
) -> Plan:
    """Each of `rows` in exactly one bin; a micro-batch has at most `budget` tokens, or one row that alone has more.

    `packed` false: one row a bin, for models that do not keep packed rows apart; then at most `most` of them.
    """
    left = sorted(rows, key=lambda row: (-lengths[row], row))
    micro_batches: Plan = []
    while left:
        alike = min(_alike(lengths, left, budget), most or len(left))
        if packed and not _useful(lengths, left[:alike]):
            bins, left = _fill(lengths, left, budget)
        else:
            bins, left = [[row] for row in left[:alike]], left[alike:]
        micro_batches.append(bins)
    return micro_batches


def _alike(lengths: Sequence[int], rows: Sequence[int], budget: int) -> int:
    """How many of the first rows fill the budget side by side."""
    return max(1, min(len(rows), budget // lengths[rows[0]]))


def _useful(lengths: Sequence[int], rows: Sequence[int]) -> bool:
    return sum(lengths[row] for row in rows) >= USEFUL_SHARE * lengths[rows[0]] * len(rows)


def _fill(lengths: Sequence[int], rows: Sequence[int], budget: int) -> tuple[list[list[int]], list[int]]:
    """Bins of one size, first fit by falling length (Johnson 1973), and the rows that did not fit."""
    size = max(lengths[rows[0]], min(BIN_TOKENS, budget))
    bins: list[list[int]] = []
    free: list[int] = []
    left: list[int] = []
    for row in rows:
        place = next((index for index, room in enumerate(free) if room >= lengths[row]), None)
        if place is not None:
            bins[place].append(row)
            free[place] -= lengths[row]
        elif not bins or (len(bins) + 1) * size <= budget:
            bins.append([row])
            free.append(size - lengths[row])
        else:
            left.append(row)
    return bins, left


def lay_out(batch: TrainRows, bins: Sequence[Sequence[int]]) -> MicroBatch:
    """The tensors of a micro-batch, on the CPU."""
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    number = torch.cat([torch.zeros(1, dtype=torch.long), batch.counts.cumsum(0)]).tolist()
    width = max(sum(lengths[row] for row in rows) for rows in bins)
    token_ids = torch.zeros(len(bins), width, dtype=torch.long)
    position_ids = torch.zeros(len(bins), width, dtype=torch.long)
    places, targets, tokens = [], [], []
    for index, rows in enumerate(bins):
        offset = 0
        for row in rows:
            ids = batch.token_ids[starts[row] : starts[row + 1]]
            token_ids[index, offset : offset + len(ids)] = ids
            position_ids[index, offset : offset + len(ids)] = torch.arange(len(ids))
            chosen = torch.nonzero(batch.sampled[starts[row] : starts[row + 1]])[:, 0]
            places.append(chosen + (index * width + offset - 1))
            targets.append(ids[chosen])
            tokens.append(torch.arange(number[row], number[row + 1]))
            offset += len(ids)
        position_ids[index, offset:] = torch.arange(width - offset)
    return MicroBatch(
        token_ids=token_ids,
        position_ids=position_ids if any(len(rows) > 1 for rows in bins) else None,
        places=torch.cat(places),
        targets=torch.cat(targets),
        tokens=torch.cat(tokens),
        used=sum(lengths[row] for rows in bins for row in rows),
    )
