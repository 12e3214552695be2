"""What went wrong on S3, in one sentence: errors of boto3 and of the server become StorageErrors."""

from __future__ import annotations

from typing import Any

from botocore import UNSIGNED
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)

from pipeline.storage.errors import Broken, ChangedError, MissingError, StorageError, TransientError, redact
from pipeline.storage.retry import asked_to_wait

_MISSING = {"NoSuchKey", "404", "NotFound"}
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "TokenRefreshRequired", "InvalidSecurity"}
_EXPIRED = {"ExpiredToken", "RequestExpired", "ExpiredTokenException"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "403", "401", "Unauthorized"}
_REGION = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_CHANGED = {"PreconditionFailed", "412"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "InsufficientCapacity", "507"}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"}
_DAMAGED = {"BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch"}  # on its way to the server


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def headers_of(error: ClientError) -> dict[str, str]:
    """The headers of the answer, by their names as RFCs write them."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {name: headers[name.lower()] for name in ("Retry-After", "RateLimit") if name.lower() in headers}


def is_busy(error: ClientError) -> bool:
    """True when the server may well answer the same request later."""
    return error_code(error) in _BUSY | _DAMAGED or status_of(error) in (429, 500, 502, 503, 504)


def from_boto_error(error: Exception, uri: str, action: str, s3: Any) -> StorageError:
    """The StorageError for what boto3 raised while `action` ("read", "write", "list", ...) ran on `uri`."""
    if isinstance(error, ClientError):
        return _from_server(error, uri, action, s3)
    where = _endpoint(s3)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        # Where many workers ask a node's metadata service at once, it may not answer each of them.
        kind = TransientError if isinstance(error, CredentialRetrievalError) else StorageError
        return kind(
            f"{uri}: no usable AWS credentials: {redact(str(error))}; set AWS_PROFILE, or both AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, SSOError | TokenRetrievalError):
        return StorageError(f"{uri}: the AWS sign-in has lapsed: {redact(str(error))}; run `aws sso login`")
    if isinstance(error, ProfileNotFound):
        return StorageError(f"{uri}: {redact(str(error))}; correct AWS_PROFILE")
    if isinstance(error, SSLError):
        return StorageError(
            f"{uri}: no secure connection to {where}: {redact(str(error))}; check AWS_CA_BUNDLE and AWS_ENDPOINT_URL"
        )
    if isinstance(error, ParamValidationError):
        return StorageError(f"{uri}: not a valid S3 address: {redact(str(error))}; write s3://BUCKET/KEY")
    broken = as_broken(error, s3)
    return broken.given_up(uri) if broken else StorageError(f"{uri}: cannot {action} it: {redact(str(error))}")


def as_broken(error: Exception, s3: Any) -> Broken | None:
    """Broken for what trying again later may mend, else None."""
    if isinstance(error, ClientError):
        reason = f"{_endpoint(s3)} keeps answering {error_code(error)}"
        return Broken(reason, "try again later", asked_to_wait(headers_of(error))) if is_busy(error) else None
    if isinstance(error, SSLError):
        return None
    if isinstance(error, ConnectionError | HTTPClientError):
        return Broken(
            f"cannot reach {_endpoint(s3)} ({_cause(error)})", "check the network, and AWS_ENDPOINT_URL if it is set"
        )
    if isinstance(error, BotoCoreError):
        return None
    return Broken(redact(f"{type(error).__name__}: {error}"))


def _from_server(error: ClientError, uri: str, action: str, s3: Any) -> StorageError:
    code, where = error_code(error), _endpoint(s3)
    anonymous = s3 is not None and s3.meta.config.signature_version is UNSIGNED
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return MissingError(f"{uri}: there is no bucket {bucket!r} at {where}; create it or correct the name")
    if code in _MISSING:
        return MissingError(f"{uri}: no such object; check bucket and key")
    if code in _REFUSED:
        return StorageError(
            f"{uri}: {where} refuses the AWS credentials ({code}); "
            "check AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
        )
    if code in _EXPIRED:
        return StorageError(f"{uri}: the AWS credentials have expired ({code}); renew them, e.g. with `aws sso login`")
    if code == "RequestTimeTooSkewed":
        return StorageError(f"{uri}: this machine's clock is too far off for {where}; set the clock")
    if code in _DENIED:
        return StorageError(f"{uri}: {_denied(bucket, action, anonymous)}")
    if code in _REGION:
        return StorageError(f"{uri}: the bucket is in another region; set AWS_REGION to it")
    if code in _CHANGED:
        return ChangedError(f"{uri}: changed while it was being used; start the run again")
    if code == "InvalidObjectState":
        return StorageError(f"{uri}: the object is archived; restore it first, or name another copy")
    if code in _FULL:
        return StorageError(f"{uri}: no space left at {where} ({code}); free some or choose another bucket")
    if (broken := as_broken(error, s3)) is not None:
        return broken.given_up(uri)
    message = redact(str(error.response.get("Error", {}).get("Message", "")))
    return StorageError(f"{uri}: cannot {action} it: {where} answers {code} ({message})")


def _denied(bucket: str, action: str, anonymous: bool) -> str:
    if not anonymous:
        return (
            f"these AWS credentials may not {action} it, or it does not exist; "
            "ask the bucket's owner for permission, or use other credentials"
        )
    text = (
        f"no AWS credentials were found, and the bucket lets nobody {action} it without; "
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    if bucket == "commoncrawl":  # closed to unsigned S3 requests since 2022; the same files are public over HTTPS
        text += ", or read the same file without an account at https://data.commoncrawl.org/"
    return text


def _endpoint(s3: Any) -> str:
    return redact(s3.meta.endpoint_url) if s3 is not None else "S3"


def _cause(error: Exception) -> str:
    text = str(error).lower()
    for sign, words in (
        ("name or service not known", "its name is not known"),
        ("name resolution", "its name cannot be looked up"),
        ("nodename nor servname", "its name is not known"),
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("timeout", "no answer in time"),
        ("unreachable", "network unreachable"),
    ):
        if sign in text:
            return words
    if "could not connect" in text:
        inner = error.kwargs.get("error") if isinstance(error, BotoCoreError) else None
        return _cause(Exception(str(inner))) if inner else "no connection"
    return type(error).__name__
