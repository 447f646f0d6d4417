"""`safelight settings`."""

import typer

from safelight.cli import options
from safelight.cli.errand import print_json
from safelight.cli.tables import columns
from safelight.config import describe

_HOW = """\
# In a file (--config or SAFELIGHT_CONFIG):   server: {port: 9000}
# As a variable, which wins over the file:    SAFELIGHT_SERVER__PORT=9000
# A value in the file may name a variable:    value: env.OPENAI_API_KEY
"""


def settings(as_json: options.Json = False) -> None:
    """List every setting with its default."""
    described = describe()
    if as_json:
        print_json({"settings": [dict(zip(("name", "default", "help"), row, strict=True)) for row in described]})
    else:
        typer.echo(_HOW)
        typer.echo(columns([("SETTING", "DEFAULT", "MEANING"), *described]))
