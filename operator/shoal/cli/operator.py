"""`shoal operator`: run the operator in the foreground; its pod's command."""

import os
from importlib.metadata import version
from pathlib import Path

import click

from shoal.cli.options import CREDENTIALS_HELP, DURATION, LISTEN, MINUTES


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Default: {CREDENTIALS_HELP}.",
)
@click.option("--namespace", help="Watch this namespace alone; default: all.")
@click.option("--image-tag", default="", help="Tag of the images that pods run; default: Shoal's version.")
@click.option("--image", "images", multiple=True, metavar="ROLE=IMAGE", help="Image of one role; may be repeated.")
@click.option(
    "--image-pull-policy",
    "pull_policy",
    default="",
    type=click.Choice(["", "Always", "IfNotPresent", "Never"]),
    help="Of those images; default: Kubernetes' own.",
)
@click.option(
    "--image-pull-secret",
    "pull_secrets",
    multiple=True,
    metavar="NAME",
    help="Secret to pull with, in the pods' namespaces; may be repeated.",
)
@click.option(
    "--workers", default=8, show_default=True, type=click.IntRange(1, 256), help="Resources reconciled at once."
)
@click.option(
    "--metrics-listen", default="", metavar="HOST:PORT", type=LISTEN, help="Serve /metrics and /healthz here."
)
@click.option(
    "--leader-elect/--no-leader-elect", default=False, show_default=True, help="Needed with more than one replica."
)
@click.option(
    "--lease-name",
    default="shoal-operator",
    show_default=True,
    help="Of the Lease; operators for different namespaces need different ones.",
)
@click.option(
    "--network-policies/--no-network-policies",
    default=True,
    show_default=True,
    help="Make NetworkPolicies for every pool, fleet and job.",
)
@click.option(
    "--scrape-namespace",
    "scrapers",
    multiple=True,
    metavar="NAME",
    help="Those policies let this namespace read metrics; may be repeated.",
)
@click.option(
    "--token-max-age",
    default="720h",
    show_default=True,
    type=DURATION,
    help="Renew the services' bearer tokens at this age; 0s renews on request alone.",
)
@click.option(
    "--token-overlap",
    default="10m",
    show_default=True,
    type=MINUTES,
    help="Take the token before for so long after a renewal; longer than nodes need to refresh a Secret, and than the "
    "episodes of an OpenAI harness last.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(("debug", "info", "warning", "error")),
    help="Least level that is logged; debug has a line for what each pass decided.",
)
@click.option(
    "--log-format",
    default="text",
    show_default=True,
    type=click.Choice(("text", "json")),
    help="json: one object a line, with the names that the data plane's services use.",
)
def command(
    kubeconfig: Path | None,
    namespace: str | None,
    image_tag: str,
    images: tuple[str, ...],
    pull_policy: str,
    pull_secrets: tuple[str, ...],
    workers: int,
    metrics_listen: str,
    leader_elect: bool,
    lease_name: str,
    network_policies: bool,
    scrapers: tuple[str, ...],
    token_max_age: float,
    token_overlap: float,
    log_level: str,
    log_format: str,
) -> None:
    """Run the operator until it is told to stop."""
    from shoal.builders.images import Images
    from shoal.builders.network import NetworkSettings
    from shoal.controllers.operator import OperatorSettings, run_operator
    from shoal.planner.tokens import TokenPolicy

    overrides = dict(_role_image(entry) for entry in images)
    run_operator(
        OperatorSettings(
            kubeconfig=kubeconfig,
            namespace=namespace,
            images=Images(image_tag or version("shoal"), overrides, pull_policy, pull_secrets),
            workers=workers,
            metrics_listen=metrics_listen,
            leader_elect=leader_elect,
            lease_name=lease_name,
            network=NetworkSettings(network_policies, os.environ.get("POD_NAMESPACE", ""), scrapers),
            tokens=TokenPolicy(token_max_age, token_overlap),
            log_level=log_level,
            log_format=log_format,
        )
    )


def _role_image(entry: str) -> tuple[str, str]:
    from shoal.api.labels import PORTS

    role, equals, image = entry.partition("=")
    if not equals or role not in PORTS or not image:
        raise click.BadParameter(
            f"{entry!r}: expected ROLE=IMAGE with a role of {', '.join(PORTS)}", param_hint="--image"
        )
    return role, image
