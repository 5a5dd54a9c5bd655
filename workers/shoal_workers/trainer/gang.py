"""The processes that train together: one, or several with a shard of the weights each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Gang:
    """This process's place among the processes of one learner. All make the same calls in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every process's tensor, in place, on each of them."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def least(self, value: int) -> int:
        """The least of every process's numbers."""
        given = torch.tensor(value, device=self.device)
        if self.size > 1:
            dist.all_reduce(given, dist.ReduceOp.MIN)
        return int(given)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def alone() -> Gang:
    """A gang of one, on the accelerator where there is one."""
    return Gang(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def join(rank: int, size: int, address: str, port: int) -> Gang:
    """Meet the others at rank 0's address: NCCL where each process has an accelerator, Gloo elsewhere."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, size, is_master=rank == 0
    )
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    return Gang(rank, size, device)


def settle(gang: Gang) -> None:
    """Sharding needs a process group, also of one process: make it where none was joined."""
    if not dist.is_initialized():
        backend = "nccl" if gang.device.type == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
