"""The tape of an episode: every token in order, who chose it, and what it took to get there again."""

from dataclasses import dataclass, field
from typing import Any

from shoal.api.services.common import VersionSpan
from shoal.api.services.trajectories import Prefix, Segment
from shoal_workers.agent.rewards import Rewards


@dataclass
class Tape:
    """Tokens of one conversation. Lists of equal length; `spans` cover exactly the sampled tokens."""

    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)
    turns: int = 0
    rewards: Rewards = field(default_factory=Rewards)

    def __len__(self) -> int:
        return len(self.token_ids)

    def read(self, token_ids: list[int]) -> None:
        """Append tokens that the policy was given."""
        self.token_ids += token_ids
        self.loss_mask += [0] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)

    def wrote(self, token_ids: list[int], logprobs: list[float], versions: list[VersionSpan]) -> None:
        """Append tokens that the policy sampled, with the weight versions of their positions within `token_ids`."""
        start = len(self.token_ids)
        self.token_ids += token_ids
        self.loss_mask += [1] * len(token_ids)
        self.logprobs += logprobs
        self.spans += [
            VersionSpan(version=span.version, start=start + span.start, end=start + span.end) for span in versions
        ]

    def segments(self) -> list[Segment]:
        """The tape as a trajectory's segments: none while nothing was sampled."""
        if not self.spans:
            return []
        return [
            Segment(token_ids=self.token_ids, loss_mask=self.loss_mask, logprobs=self.logprobs, versions=self.spans)
        ]

    def prefix(self) -> Prefix:
        """What another agent needs to go on from here."""
        return Prefix(segments=self.segments(), actions=self.actions, turns=self.turns)
