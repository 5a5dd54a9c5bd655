"""`python -m shoal.crdgen [--check] [--out crds] [--docs docs/reference/api.md] [--chart charts/shoal]`."""

from pathlib import Path

import click

from shoal.crdgen import chart as chart_files
from shoal.crdgen import generate, reference


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("crds"), show_default=True, help="Folder of the definitions."
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path),
    default=Path("docs/reference/api.md"),
    show_default=True,
    help="File of the API reference.",
)
@click.option(
    "--chart",
    type=click.Path(path_type=Path),
    default=Path("charts/shoal"),
    show_default=True,
    help="Folder of the Helm chart.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when a file differs from the models.")
def main(out: Path, docs: Path, chart: Path, check: bool) -> None:
    """Generate the CustomResourceDefinitions and the API reference from the models, and the chart's files."""
    changed = [out / name for name in (generate.stale(out) if check else generate.write(out))]
    changed += [chart / name for name in (chart_files.stale(chart) if check else chart_files.write(chart))]
    page = reference.page()
    if not docs.exists() or docs.read_text() != page:
        changed.append(docs)
        if not check:
            docs.parent.mkdir(parents=True, exist_ok=True)
            docs.write_text(page)
    for path in changed:
        click.echo(f"{path} {'differs from the models' if check else 'written'}")
    if check and changed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
