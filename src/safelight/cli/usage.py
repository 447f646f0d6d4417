"""`safelight usage`: what was used, through the administration of a running gateway."""

import csv
import sys
from typing import Annotated
from urllib.parse import urlencode

import typer

from safelight.cli import options
from safelight.cli.administration import asked
from safelight.cli.errand import print_json
from safelight.cli.faults import note
from safelight.cli.tables import columns
from safelight.domain.usage import Dimension

_SUMS = ("jobs", "failed", "calls", "images", "seconds", "cost_usd", "unpriced")


def usage(
    by: Annotated[
        list[Dimension] | None, typer.Option(help="What to break the sums down by; may be repeated. Otherwise the day.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="First day, such as 2026-11-01; otherwise thirty days.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day; otherwise today, in UTC.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Sum up what was used and what it cost."""
    names = [each.value for each in by or [Dimension.DAY]]
    said = {"by": ",".join(names), "since": since, "until": until}
    query = urlencode({name: value for name, value in said.items() if value is not None})
    body = asked(url, config, data_dir, lambda client: client.ask("GET", f"/usage?{query}"))
    titles = [*names, *_SUMS]
    if as_json:
        print_json(body)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, titles, lineterminator="\n")
        writer.writeheader()
        writer.writerows(body["data"])
    elif body["data"]:
        shown = [[_cell(row[title], title) for title in titles] for row in body["data"]]
        typer.echo(columns([[title.upper() for title in titles], *shown]))
    else:
        note(f"nothing was used from {body['since']} to {body['until']}")


def _cell(value: object, title: str) -> str:
    if title == "cost_usd":
        return f"${value:.4f}"
    if title == "seconds":
        return f"{value:.1f}"
    return "-" if value is None else str(value)
