"""Every error aiolit raises, in one tree.

    AiolitError
    ├── ConfigError (ValueError)            an argument or option that cannot work
    ├── MissingDependencyError (ImportError) an optional package is needed
    ├── DatasetError                        the files of a data set
    │   ├── DatasetNotFoundError (FileNotFoundError)
    │   ├── IndexFormatError (ValueError)   index.json is truncated or garbled
    │   ├── ChunkFormatError (ValueError)   a chunk is truncated or garbled
    │   ├── ChecksumError                   stored bytes differ from their CRC-32
    │   ├── SchemaError (ValueError)        a sample does not fit the data set's tree of leaves
    │   ├── UntrustedDataError              reading would run code from the data (a pickled leaf)
    │   └── EncryptionError                 wrong or missing key
    ├── StateError (ValueError)             a saved state does not fit this data set or loader
    ├── StoreError (OSError)                an object store; carries url, attempts, seconds
    │   ├── ObjectNotFoundError (FileNotFoundError)
    │   ├── ObjectExistsError (FileExistsError) a write that must not replace found an object
    │   ├── AccessDeniedError (PermissionError)
    │   ├── ObjectChangedError              the object was replaced while it was read
    │   ├── RangeError                      the server cannot serve the range
    │   ├── StoreUnavailableError           5xx, throttled, refused, reset: worth a retry
    │   ├── StoreTimeoutError (TimeoutError) no progress for too long: worth a retry
    │   └── ShortBodyError                  fewer bytes than announced: worth a retry
    ├── CacheError                          the cache folder
    └── OptimizeError                       writing a data set
        ├── WorkerDiedError                 a worker process ended without an answer
        └── ProducerError                   the source of inputs ended without saying it was done

Catch ``AiolitError`` to catch them all. An exception raised by your own function (``fn``,
``transform``, ``collate_fn``) passes unchanged, with a note that says for which input.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "AiolitError",
    "CacheError",
    "ChecksumError",
    "ChunkFormatError",
    "ConfigError",
    "DatasetError",
    "DatasetNotFoundError",
    "EncryptionError",
    "IndexFormatError",
    "MissingDependencyError",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "OptimizeError",
    "ProducerError",
    "RangeError",
    "SchemaError",
    "ShortBodyError",
    "StateError",
    "StoreError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "UntrustedDataError",
    "WorkerDiedError",
]


class AiolitError(Exception):
    """Base of every error of aiolit."""


class ConfigError(AiolitError, ValueError):
    """An argument or option that cannot work."""


class MissingDependencyError(AiolitError, ImportError):
    """An optional package is needed for this; the message says the pip command."""


class DatasetError(AiolitError):
    """The files of a data set are not as they should be."""


class DatasetNotFoundError(DatasetError, FileNotFoundError, ValueError):
    """There is no data set at the path or URL."""


class IndexFormatError(DatasetError, ValueError):
    """``index.json`` is truncated, garbled, or disagrees with itself."""


class ChunkFormatError(DatasetError, ValueError):
    """A chunk file is truncated, garbled, or disagrees with the index."""


class ChecksumError(DatasetError):
    """Stored bytes differ from the CRC-32 written with them."""


class SchemaError(DatasetError, ValueError):
    """A sample does not fit the data set's tree of leaves."""


class UntrustedDataError(DatasetError):
    """Reading would run code from the data, and nobody allowed it."""


class EncryptionError(DatasetError, ValueError):
    """The key is missing or wrong."""


class StateError(AiolitError, ValueError):
    """A saved state does not fit this data set or loader."""


class StoreError(AiolitError, OSError):
    """An object store failed.

    Attributes:
        url: The object or prefix.
        attempts: How many requests were made for it.
        seconds: How long they took together.
        reached: False where no connection to the server came about.
    """

    reached: bool = True

    def __init__(
        self, message: str, *, url: str = "", attempts: int = 1, seconds: float = 0.0
    ) -> None:
        super().__init__(message)
        self.url = url
        self.attempts = attempts
        self.seconds = seconds

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), str(self), self.url, self.attempts, self.seconds)


def _rebuild(
    cls: type[StoreError], message: str, url: str, attempts: int, seconds: float
) -> StoreError:
    return cls(message, url=url, attempts=attempts, seconds=seconds)


class ObjectNotFoundError(StoreError, FileNotFoundError):
    """There is no such object or bucket."""


class ObjectExistsError(StoreError, FileExistsError):
    """There is an object already, and the write was not to replace it."""


class AccessDeniedError(StoreError, PermissionError):
    """The credentials do not allow it."""


class ObjectChangedError(StoreError):
    """The object was replaced while it was read."""


class RangeError(StoreError):
    """The server cannot serve the range."""


class StoreUnavailableError(StoreError):
    """The server or the way to it failed; a retry may help.

    Attributes:
        retry_after_s: How long the server asked to wait, in seconds, or None.
        throttled: Whether it asked for fewer requests.
    """

    retry_after_s: float | None = None
    throttled: bool = False


class StoreTimeoutError(StoreError, TimeoutError):
    """No byte came for too long; a retry may help."""


class ShortBodyError(StoreError):
    """The body ended before the announced length; a retry may help."""


class CacheError(AiolitError):
    """The cache folder cannot be used."""


class OptimizeError(AiolitError):
    """Writing a data set failed; nothing was committed."""


class WorkerDiedError(OptimizeError):
    """A worker process ended without an answer."""


class ProducerError(OptimizeError):
    """The source of inputs ended without saying that it was done."""
