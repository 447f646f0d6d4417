"""Names for the identifiers that travel through the program."""

from typing import NewType

JobId = NewType("JobId", str)
"""A random UUID, version 4, lower case, 36 characters."""

BlobKey = NewType("BlobKey", str)
"""`<job id>/<random name>`: never derived from a user's text."""

ProviderName = NewType("ProviderName", str)
"""The name of an entry under `providers:` in the settings."""
