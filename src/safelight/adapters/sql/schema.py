"""The numbered, forward-only migrations, written once in SQL that Postgres takes as it is."""

from collections.abc import Sequence
from importlib.resources import files

from safelight.domain.errors import ConfigurationError

_FOLDER = files("safelight.adapters.sql").joinpath("migrations")


def migrations(engine: str) -> Sequence[tuple[int, str]]:
    """The SQL of this release as (number, text) in order.

    What only one engine needs stands beside the common file, as `NNNN_name.<engine>.sql`, and follows it.
    """
    texts: dict[int, list[str]] = {}
    for file in sorted(_FOLDER.iterdir(), key=lambda file: (file.name[:4], file.name.count("."))):
        name, *engines = file.name.removesuffix(".sql").split(".")
        if file.name.endswith(".sql") and engines in ([], [engine]):
            texts.setdefault(int(name[:4]), []).append(file.read_text())
    return [(number, "\n".join(parts)) for number, parts in sorted(texts.items())]


def newest(engine: str) -> int:
    """The number of this release's schema."""
    return migrations(engine)[-1][0]


def refuse_newer(version: int, engine: str) -> None:
    """Raise `ConfigurationError` when a database was written by a newer release."""
    if version > newest(engine):
        raise ConfigurationError(
            f"the database has schema {version}, this release knows up to {newest(engine)}: "
            "run a newer release of safelight"
        )
