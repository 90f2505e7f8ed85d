"""Classification of storage errors: transient or not, and a plain description without secrets.

The clients of S3, Google Cloud Storage and Azure raise errors of their own. This module recognises
them by HTTP status, error code and class name, so that no client has to be installed.
"""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from batch_scorer.errors import CxrError, TransientError
from batch_scorer.system.redact import redact_secrets, redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DOCS_HINT = "See 'Images and results in a bucket' in docs/images.md."
_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("gcsfs.retry", "HttpError"),
    ("gcsfs.retry", "ChecksumError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
_TRANSIENT_CLASSES = {
    *("aiohttp.client_exceptions.ClientConnectionError",),
    *("aiohttp.client_exceptions.ClientPayloadError",),
    *("azure.core.exceptions.ServiceRequestError", "azure.core.exceptions.ServiceResponseError"),
    *("azure.core.exceptions.IncompleteReadError",),
    *("botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError"),
    *("botocore.exceptions.IncompleteReadError", "botocore.parsers.ResponseParserError"),
    *("gcsfs.retry.ChecksumError", "google.auth.exceptions.TransportError"),
    *("requests.exceptions.ConnectionError", "requests.exceptions.Timeout"),
}
_TRANSIENT_ERRNOS = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "EAGAIN", "EBUSY", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN")
    if hasattr(errno, name)
}
_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {
    *("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"),
    "ConditionalRequestConflict",  # two tasks created the same object at once
}
_NO_CREDENTIALS = {
    *("botocore.exceptions.NoCredentialsError", "botocore.exceptions.PartialCredentialsError"),
    *("botocore.exceptions.CredentialRetrievalError", "botocore.exceptions.TokenRetrievalError"),
    *("google.auth.exceptions.DefaultCredentialsError", "google.auth.exceptions.RefreshError"),
    "azure.core.exceptions.ClientAuthenticationError",
}
_REFUSED_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_REGION_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"}
_CLOCK_TOLERANCE = timedelta(minutes=15)
"""The difference that S3 accepts."""
_CLOCK_CODES = {"RequestTimeTooSkewed", "RequestInTheFuture"}
_BUCKET_CODES = {"NoSuchBucket", "ContainerNotFound"}
_LOGIN_ADVICE = {
    "s3": "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    "gs": "Log in with gcloud auth application-default login, or set "
    "GOOGLE_APPLICATION_CREDENTIALS.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and log in with az login, or set "
    "AZURE_STORAGE_CONNECTION_STRING.",
}
_CLOUD_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}


def find_private_path(url: str) -> tuple[str, ...]:
    """Return the path below the bucket of a URL that holds a blank or a quote; else nothing.

    Such a path is hard to distinguish from prose when a log for machines hides private words.
    """
    path = redact_url(url).partition("://")[2].partition("/")[2]
    return (path,) if re.search(r"[\s'\",;)]", path) else ()


def storage_errors() -> tuple[type[Exception], ...]:
    """Return every class of error that the storage clients loaded so far may raise.

    They raise ValueError for impossible names: a zero byte, a container without a blob.
    """
    # Another thread may be importing a module, which is then incomplete.
    found = (getattr(sys.modules.get(module), name, None) for module, name in _CLIENT_ERRORS)
    return (OSError, ValueError, *filter(None, found))


def is_transient(exc: BaseException) -> bool:
    """Return whether the same call may work later: no response, throttled, connection lost."""
    if _class_names([exc]) & _TRANSIENT_CLASSES:  # first: aiohttp gives a truncated body status 400
        return True
    status, code = _http_status(exc), _error_code(exc)
    if status:
        return status in _TRANSIENT_STATUSES or code in _TRANSIENT_CODES
    return (
        isinstance(exc, (ConnectionError, TimeoutError))
        or bool(_class_names(_cause_chain(exc)) & _TRANSIENT_CLASSES)
        or (isinstance(exc, OSError) and exc.errno in _TRANSIENT_ERRNOS)
    )


def is_past_end(exc: BaseException) -> bool:
    """Return whether a range request began at the end of the file, which is empty."""
    return _http_status(exc) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def lacks_bucket(exc: BaseException) -> bool:
    """Return whether the whole bucket or container is missing, not only the file."""
    return _error_code(exc) in _BUCKET_CODES or "bucket does not exist" in str(exc)


def lacks_reason(exc: BaseException) -> bool:
    """Return whether a bad request came back without a reason, as a response to HEAD does."""
    return _http_status(exc) == HTTPStatus.BAD_REQUEST and _first_rule(exc) is None


def translate_error(
    exc: Exception, what: str, kind: type[CxrError], action: str, hint: str = ""
) -> CxrError:
    """Make the one-line error to raise for a listing, an output or a table.

    Args:
        exc: The client's error, after every retry.
        what: The folder or file, with its path or URL.
        kind: The class of a permanent error; a transient one becomes a TransientError.
        action: "listed", "read", "written" or "removed".
        hint: The advice if the error suggests none.
    """
    shown = redact_secrets(what)
    sentence = f"{shown} cannot be {action}: {describe_failure(exc, quote=shown == what)}."
    private = find_private_path(what)
    if is_transient(exc):
        again = "Check address and network, then run the same command again."
        return TransientError(sentence, again, private)
    return kind(sentence, _find_advice(exc, what) or hint, private)


def describe_failure(exc: BaseException, *, quote: bool = True) -> str:
    """Describe the reason in plain words, for a row or an error.

    Args:
        exc: The client's error.
        quote: Whether to quote the error's text. It may hold a piece of the URL that no longer
            looks like one, so a URL with a secret must not be quoted.
    """
    found = _first_rule(exc)
    text = _format_error(exc) if quote else type(exc).__name__
    return found.reason.replace("TEXT", text) if found else text


def _find_advice(exc: BaseException, what: str) -> str:
    found, cloud = _first_rule(exc), _find_cloud(what)
    if not found or not found.advice or not cloud:
        return ""
    return f"{found.advice.replace('LOG IN', _LOGIN_ADVICE.get(cloud, 'Log in.'))} {DOCS_HINT}"


def _first_rule(exc: BaseException) -> _Rule | None:
    return next((rule for rule in _RULES if rule.applies(exc)), None)


def _find_cloud(what: str) -> str:
    match = re.search(r"(\w+)://", what)
    protocol = match[1] if match else ""
    return "" if protocol in {"file", "local"} else _CLOUD_ALIASES.get(protocol, protocol)


def _is_other_region(exc: BaseException) -> bool:
    return _error_code(exc) in _REGION_CODES or _http_status(exc) == HTTPStatus.MOVED_PERMANENTLY


def _lacks_credentials(exc: BaseException) -> bool:
    if "Anonymous caller" in str(exc):
        return True
    return bool(_class_names(_cause_chain(exc)) & _NO_CREDENTIALS) and not _http_status(exc)


def _has_clock_skew(exc: BaseException) -> bool:
    """Return whether the clocks are too far apart; a response without a body has only its date."""
    if _error_code(exc) in _CLOCK_CODES:
        return True
    date = _response_date(exc) if _http_status(exc) == HTTPStatus.FORBIDDEN else None
    return date is not None and abs(datetime.now(UTC) - date) > _CLOCK_TOLERANCE


def _response_date(exc: BaseException) -> datetime | None:
    """Return the time of a response by the server's own clock."""
    for error in _cause_chain(exc):
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        else:
            headers = getattr(response, "headers", {})
        text = headers.get("date") or headers.get("Date")
        if text:
            try:
                return parsedate_to_datetime(text).astimezone(UTC)
            except ValueError:
                return None
    return None


def _is_refused(exc: BaseException) -> bool:
    if _http_status(exc) in {401, 403} or _error_code(exc) in _REFUSED_CODES:
        return True
    wordless = isinstance(exc, PermissionError) and not exc.strerror
    return wordless or str(exc).startswith("Forbidden")


def _is_missing(exc: BaseException) -> bool:
    if isinstance(exc, FileNotFoundError):
        return not exc.strerror
    return _http_status(exc) == HTTPStatus.NOT_FOUND


def _format_error(exc: BaseException) -> str:
    text = str(getattr(exc, "strerror", None) or exc) or type(exc).__name__
    line = redact_secrets(text).splitlines()[0].strip().rstrip(".: ")
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= 200 else f"{line[:200]}..."  # noqa: PLR2004 - one line of a row


def _cause_chain(exc: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _class_names(errors: Iterable[BaseException]) -> set[str]:
    return {f"{c.__module__}.{c.__qualname__}" for e in errors for c in type(e).__mro__}


def _http_status(exc: BaseException) -> int | None:
    """Return the HTTP status of an error or of its causes."""
    for error in _cause_chain(exc):
        response = getattr(error, "response", None)
        found = (
            [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
            if isinstance(response, dict)
            else (getattr(error, name, None) for name in ("status_code", "status", "code"))
        )
        for value in found:
            if str(value).isdecimal() and 100 <= int(str(value)) <= 599:  # noqa: PLR2004 - HTTP's
                return int(str(value))
    return None


def _error_code(exc: BaseException) -> str:
    """Return the cloud's own code of an error, such as NoSuchBucket."""
    for error in _cause_chain(exc):
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        code = getattr(error, "error_code", None)
        if code:
            return str(getattr(code, "value", code))
    return ""


@dataclass(frozen=True)
class _Rule:
    applies: Callable[[BaseException], bool]
    reason: str
    advice: str = ""


_RULES = (
    _Rule(is_transient, "no complete response arrived (TEXT)"),
    _Rule(_lacks_credentials, "credentials are missing or invalid", "LOG IN"),
    _Rule(
        _is_other_region,
        "the bucket is in another region, or behind another endpoint",
        "Set AWS_DEFAULT_REGION, or AWS_ENDPOINT_URL.",
    ),
    _Rule(
        _has_clock_skew,
        "this machine's clock differs from the storage's clock",
        "Set the clock.",
    ),
    _Rule(
        _is_refused,
        "access is refused",
        "Check the account of the credentials and its permissions.",
    ),
    _Rule(lacks_bucket, "the bucket does not exist", "Check its name and its account."),
    _Rule(_is_missing, "it does not exist"),
)
