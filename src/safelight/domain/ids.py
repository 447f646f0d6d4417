"""Names for the identifiers that travel through the program."""

from datetime import datetime
from typing import NewType

JobId = NewType("JobId", str)
"""A random UUID, version 4, lower case, 36 characters."""

BlobKey = NewType("BlobKey", str)
"""`<hour>/<job id>-<random name>`: never derived from a user's text. The hour (UTC) is that of its writing, so that
images nobody owns can be found among the old folders alone."""

BatchId = NewType("BatchId", str)
"""As a `JobId`; no job and no batch ever share one, so blobs can belong to either."""

ProviderName = NewType("ProviderName", str)
"""The name of an entry under `providers:` in the settings."""

EndpointId = NewType("EndpointId", str)
"""A webhook endpoint's random UUID."""

DeliveryId = NewType("DeliveryId", str)
"""The random UUID of one event's delivery, which receivers see as `webhook-id`."""

_UUID_CHARS = 36


def blob_hour(moment: datetime) -> str:
    """How the keys of blobs begin that are written at `moment`, which is aware UTC."""
    return f"{moment.year:04}{moment.month:02}{moment.day:02}{moment.hour:02}"


def blob_key(moment: datetime, owner_id: JobId | BatchId, name: str) -> BlobKey:
    """Make the key of something that is written now for a job or a batch."""
    return BlobKey(f"{blob_hour(moment)}/{owner_id}-{name}")


def blob_job(key: str) -> JobId:
    """The job (or the batch) that a blob belongs to."""
    return JobId(key.partition("/")[2][:_UUID_CHARS])


def blob_name(key: str) -> str:
    """The image's name within its job."""
    return key.partition("/")[2][_UUID_CHARS + 1 :]
