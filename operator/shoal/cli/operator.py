"""`shoal operator`: run the operator in the foreground; its pod's command."""

import os
from pathlib import Path

import click


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Default: in-cluster, then $KUBECONFIG.",
)
@click.option("--namespace", help="Watch this namespace alone; default: all.")
@click.option("--image-tag", default="latest", show_default=True, help="Tag of the images that pods run.")
@click.option("--image", "images", multiple=True, metavar="ROLE=IMAGE", help="Image of one role; may be repeated.")
@click.option(
    "--workers", default=8, show_default=True, type=click.IntRange(1, 256), help="Resources reconciled at once."
)
@click.option("--metrics-listen", default="", metavar="HOST:PORT", help="Serve /metrics and /healthz here.")
@click.option(
    "--leader-elect/--no-leader-elect", default=False, show_default=True, help="Needed with more than one replica."
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
def command(
    kubeconfig: Path | None,
    namespace: str | None,
    image_tag: str,
    images: tuple[str, ...],
    workers: int,
    metrics_listen: str,
    leader_elect: bool,
    network_policies: bool,
    scrapers: tuple[str, ...],
) -> None:
    """Run the operator until it is told to stop."""
    from shoal.builders.images import Images
    from shoal.builders.network import NetworkSettings
    from shoal.controllers.operator import OperatorSettings, run_operator

    overrides = dict(_role_image(entry) for entry in images)
    run_operator(
        OperatorSettings(
            kubeconfig=kubeconfig,
            namespace=namespace,
            images=Images(image_tag, overrides),
            workers=workers,
            metrics_listen=metrics_listen,
            leader_elect=leader_elect,
            network=NetworkSettings(network_policies, os.environ.get("POD_NAMESPACE", ""), scrapers),
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
