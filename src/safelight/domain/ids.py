"""Names for the identifiers that travel through the program."""

from datetime import UTC, datetime, timedelta
from typing import NewType

JobId = NewType("JobId", str)
"""A UUID, version 4, lower case, 36 characters; made by `new_job_id`."""

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
_FREE_BITS = 0xFFFFFFFF_FFFF_0FFF_3FFF_FFFFFFFFFFFF
_VERSION_4 = 0x00000000_0000_4000_8000_000000000000
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_job_id(moment: datetime, noise: bytes) -> JobId:
    """Make an id from the time, which is aware UTC, and ten random bytes: 74 of their bits stay, too many to guess.

    The time comes first, so that the rows of new jobs are neighbours in every index. Ids that are random as a whole would
    each touch other pages of it, and a store of a million jobs would write several times as much.
    """
    return JobId(uuid_of(((moment - _EPOCH) // _MILLISECOND).to_bytes(6) + noise))


def uuid_of(content: bytes) -> str:
    """Write sixteen bytes as a UUID, version 4, which fixes six of their bits. `uuid.UUID` takes three times as long."""
    digits = f"{int.from_bytes(content) & _FREE_BITS | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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
