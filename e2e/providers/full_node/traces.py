"""What a node does to its machine that no namespace keeps in: cgroups of containers, kernel settings of kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CONTAINERS = "k8s.io"
"""Top of the cgroups of Kubernetes' containers; empty ones stay when their shims are killed."""
SETTINGS = Path("/proc/sys")
KUBELETS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""What kubelet sets when it starts, to values that suit a machine which is a node and nothing else."""


@contextmanager
def undone() -> Iterator[None]:
    """Remove the cgroups that the block brought, and set kernel settings back."""
    before, settings = (
        groups(),
        {name: (SETTINGS / name).read_text() for name in KUBELETS if (SETTINGS / name).exists()},
    )
    try:
        yield
    finally:
        for group in sorted(groups() - before, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # another node's, which has begun meanwhile
                group.rmdir()
        for name, value in settings.items():
            if (SETTINGS / name).read_text() != value:
                (SETTINGS / name).write_text(value)


def groups() -> set[Path]:
    """Cgroups of containers, in the one hierarchy of version 2 or the many of version 1."""
    tops = [CGROUPS / CONTAINERS, *CGROUPS.glob(f"*/{CONTAINERS}")]
    return {path for top in tops if top.is_dir() for path in (top, *top.rglob("*/"))}
