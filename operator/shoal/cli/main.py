"""The `shoal` command: one word per thing a person wants done. Each command's module is imported when it is used."""

import importlib
import sys
from typing import Any

import click

COMMANDS = {
    "run": "Train: start a control plane, apply manifests, show progress until the job has ended.",
    "up": "Start a control plane in the background and keep it.",
    "down": "Stop the control plane that `up` started.",
    "status": "Show jobs, pools and fleets.",
    "logs": "Print the log of a job's role.",
    "crds": "Print the CustomResourceDefinitions.",
    "validate": "Check manifests without a cluster.",
    "operator": "Run the operator (what its pod does).",
}


class LazyGroup(click.Group):
    """A group whose commands live in `shoal.cli.<name>` as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module: Any = importlib.import_module(f"shoal.cli.{cmd_name}")
        command: click.Command = module.command
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself, so that `shoal --help` imports nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shoal")
def main() -> None:
    """Shoal: agentic reinforcement learning on Kubernetes, or on this machine alone."""


if __name__ == "__main__":
    sys.exit(main())
