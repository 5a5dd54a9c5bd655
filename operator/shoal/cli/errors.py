"""Errors as a person at a terminal wants them: one line, and an exit code."""

import click


class UserError(click.ClickException):
    """Something the person can put right."""

    exit_code = 2


class JobFailedError(click.ClickException):
    """The job ended without success."""

    exit_code = 1
