"""Names for the identifiers that travel through the program."""

from typing import NewType

JobId = NewType("JobId", str)
"""A random UUID, version 4, lower case, 36 characters."""

BlobKey = NewType("BlobKey", str)
"""`<hour>/<job id>-<random name>`: never derived from a user's text. The hour (UTC) is that of its writing, so that
images nobody owns can be found among the old folders alone."""

ProviderName = NewType("ProviderName", str)
"""The name of an entry under `providers:` in the settings."""

HOUR_FORMAT = "%Y%m%d%H"
"""How a blob's key begins, for `strftime`."""

_UUID_CHARS = 36


def blob_key(hour: str, job_id: JobId, name: str) -> BlobKey:
    """Make the key of a job's image."""
    return BlobKey(f"{hour}/{job_id}-{name}")


def blob_job(key: str) -> JobId:
    """The job that an image belongs to."""
    return JobId(key.partition("/")[2][:_UUID_CHARS])


def blob_name(key: str) -> str:
    """The image's name within its job."""
    return key.partition("/")[2][_UUID_CHARS + 1 :]
