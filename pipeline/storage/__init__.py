"""Files wherever they lie: local disk, S3, HTTP and the Hugging Face hub, behind one set of functions.

Every error is a StorageError whose text is one sentence naming the place, the cause and the fix. Credentials come
from the usual places of each storage (the boto3 chain, ~/.netrc, the hub's token) and appear in no message.
"""

from pipeline.storage.cache import Cache, fetch, pinned
from pipeline.storage.content import ContentDigests, digest_of
from pipeline.storage.digest import file_digest, is_digest
from pipeline.storage.entry import Entry, Stat, is_size_only
from pipeline.storage.errors import ChangedError, DamagedError, MissingError, StorageError, TransientError, redact
from pipeline.storage.listing import exists, list_files, listed, revisions
from pipeline.storage.local import cache_folder, scratch_folder
from pipeline.storage.lock import RunLock, check_token, lock_holder
from pipeline.storage.many import find_files
from pipeline.storage.public import public, public_name, without_secrets
from pipeline.storage.random_access import open_random
from pipeline.storage.stream import open_stream, read_bytes
from pipeline.storage.uri import is_local, join, local_path, name_of, scheme
from pipeline.storage.verified import open_verified, verify_path
from pipeline.storage.writing import (
    clear_scratch,
    copy_to,
    delete,
    delete_many,
    delete_tree,
    open_output,
    publish,
    stat,
    write_bytes,
)

__all__ = [
    "Cache",
    "ChangedError",
    "ContentDigests",
    "DamagedError",
    "Entry",
    "MissingError",
    "RunLock",
    "Stat",
    "StorageError",
    "TransientError",
    "cache_folder",
    "check_token",
    "clear_scratch",
    "copy_to",
    "delete",
    "delete_many",
    "delete_tree",
    "digest_of",
    "exists",
    "fetch",
    "file_digest",
    "find_files",
    "is_digest",
    "is_local",
    "is_size_only",
    "join",
    "list_files",
    "listed",
    "local_path",
    "lock_holder",
    "name_of",
    "open_output",
    "open_random",
    "open_stream",
    "open_verified",
    "pinned",
    "public",
    "public_name",
    "publish",
    "read_bytes",
    "redact",
    "revisions",
    "scheme",
    "scratch_folder",
    "stat",
    "verify_path",
    "without_secrets",
    "write_bytes",
]
