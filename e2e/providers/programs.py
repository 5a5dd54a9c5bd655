"""Where Kubernetes' own programs are."""

from tests.kubernetes import ProgramsMissingError, find_programs

__all__ = ["ProgramsMissingError", "find_programs"]
