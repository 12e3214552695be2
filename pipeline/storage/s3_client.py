"""The S3 client: one for each process (and set of AWS settings), shared by its threads.

All settings come from the usual boto3 chain: environment, ~/.aws, container and instance roles; AWS_PROFILE,
AWS_REGION, AWS_ENDPOINT_URL(_S3), AWS_CA_BUNDLE, AWS_MAX_ATTEMPTS, AWS_RETRY_MODE and the rest mean what they mean to
every AWS tool.

Anonymous access: requests go unsigned exactly when that chain finds no credentials at all, so that public buckets can
be read without an account. Credentials that are found but refused are an error and never dropped silently.
"""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import datetime
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.utils import parse_timestamp

from pipeline.storage.errors import StorageError, redact
from pipeline.storage.retry import asked_to_wait, delay
from pipeline.storage.s3_errors import from_boto_error

CONNECT_TIMEOUT = 10
READ_TIMEOUT = 60
"""Seconds without a byte after which a connection counts as broken."""
CONNECTIONS = 64
ATTEMPTS = 5
"""Tries of one request, with exponential back-off (unless AWS_MAX_ATTEMPTS says otherwise)."""

SOON_TIMEOUT = 8
SOON_ATTEMPTS = 3
"""The same for requests whose answer is worth nothing later: those of a lock's heartbeat."""

_lock = threading.Lock()
_clients: dict[tuple[int, str, bool], Any] = {}


def client(uri: str, soon: bool = False) -> Any:
    """The client of this process; `uri` is only named in errors. soon: for requests that wait a few seconds at most."""
    key = (os.getpid(), _settings(), soon)  # a forked child must not share its parent's sockets
    with _lock:
        found = _clients.get(key)
        if found is None:
            found = _clients[key] = _make(uri, soon)
        return found


def _settings() -> str:
    """Fingerprint of the AWS settings in the environment, so that a change of them is noticed."""
    named = sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _make(uri: str, soon: bool) -> Any:
    options: dict[str, Any] = {
        "connect_timeout": SOON_TIMEOUT if soon else CONNECT_TIMEOUT,
        "read_timeout": SOON_TIMEOUT if soon else READ_TIMEOUT,
        "max_pool_connections": CONNECTIONS,
        "tcp_keepalive": True,
        # Whole files are checked by this package itself; botocore's check would break resumed streams' last read.
        "response_checksum_validation": "when_required",
    }
    retries: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    if soon or "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = SOON_ATTEMPTS if soon else ATTEMPTS
    if retries:
        options["retries"] = retries
    try:
        core = botocore.session.get_session()
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        session = boto3.Session(botocore_session=core)
        if session.get_credentials() is None:
            options["signature_version"] = UNSIGNED
        region = session.region_name or "us-east-1"
        made = session.client("s3", region_name=region, config=Config(**options))
        if not soon:
            made.meta.events.register_first("needs-retry.s3", _wait_as_asked)
        return made
    except BotoCoreError as error:
        raise from_boto_error(error, uri, "reach", None) from None
    except ValueError as error:  # an endpoint that is no URL
        raise StorageError(f"{uri}: {redact(str(error))}; correct AWS_ENDPOINT_URL") from None


def _wait_as_asked(response: tuple[Any, dict[str, Any]] | None, attempts: int, **_: Any) -> float | None:
    """Seconds before the next attempt where the server is busy and says for how long; botocore itself does not look.

    None leaves it to botocore's own rules, as after ATTEMPTS.
    """
    answer = response[0] if response else None
    if answer is None or answer.status_code not in (429, 503) or attempts >= ATTEMPTS:
        return None
    asked = asked_to_wait(answer.headers)
    return asked + delay(attempts) if asked else None


def _timestamp(text: str) -> datetime:
    """A time in an answer. Half of the work of a listing is botocore's own parser, which takes any format there is."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)
