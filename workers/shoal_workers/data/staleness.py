"""How far sampling may run ahead of training.

Bounded twice, because either bound alone does not hold: at submission no more groups are open than the next steps can
consume (the capacity rule of AReaL, arXiv 2505.24298), and at consumption a group with a token that is too old is
dropped (ROLL's eviction).
"""


def group_capacity(max_staleness: int, batch_groups: int) -> int:
    """Groups that may be open, complete or in training at once: (maxStaleness + 1) * batch."""
    return (max_staleness + 1) * batch_groups


def may_open(outstanding: int, max_staleness: int, batch_groups: int) -> bool:
    """Whether one more group may be opened while `outstanding` ones are open, complete or in training."""
    return outstanding < group_capacity(max_staleness, batch_groups)


def staleness(trainer_version: int, oldest_version: int) -> int:
    """Weight versions that lie between sampling and training; 0 for tokens of the weights that learn from them."""
    return max(0, trainer_version - oldest_version)


def is_stale(trainer_version: int, oldest_version: int, max_staleness: int) -> bool:
    """Whether a trajectory whose oldest token has this version may no longer be trained on."""
    return staleness(trainer_version, oldest_version) > max_staleness
