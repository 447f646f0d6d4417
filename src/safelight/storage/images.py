"""Where the images are, by the settings."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from safelight.adapters.blobs.cloud import CloudBlobStore, open_cloud
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.config import StorageSettings
from safelight.domain.errors import ConfigurationError

_FOLDER = ("", "file")
_BUCKETS = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")


def open_blobs(settings: StorageSettings) -> LocalBlobStore | CloudBlobStore:
    """Open the bucket or the folder. Raises `ConfigurationError`, `StorageError`."""
    if settings.blob_url is None:
        return LocalBlobStore(settings.data_dir / "blobs")
    url = urlsplit(settings.blob_url)
    if url.scheme in _FOLDER:
        return LocalBlobStore(Path(unquote(url.path)))
    if url.scheme not in _BUCKETS:
        raise ConfigurationError(
            f"storage.blob_url: {url.scheme}:// is none of s3://, gs://, az:// and file://, and no folder either"
        )
    return open_cloud(settings.blob_url, settings.blob_options, signs=settings.blob_links)
