"""Redaction of URLs in texts that are shown or stored: no user part, query or fragment.

Any of these parts may be a password, so all of them are removed, whatever their names. In a
mistyped URL the password may be where no parser expects it, so anything that could belong to a user
part is removed too, even at the cost of a piece of a valid path. A URL may have too few or too many
slashes, or backslashes: people type them, and `pathlib` removes a slash.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WEB_PROTOCOLS = {"http", "https"}
_AZURE_PROTOCOLS = {"az", "abfs", "abfss"}
_FOLDER_PROTOCOLS = {"file", "local", "memory"}
_KEY_PROTOCOLS = {"s3", "s3a", "gs", "gcs", *_AZURE_PROTOCOLS, *_FOLDER_PROTOCOLS}
"""Protocols of buckets and folders. Their paths are keys, which may contain any character."""
_KNOWN_PROTOCOLS = {*_KEY_PROTOCOLS, "ftp", "ftps", "sftp"}
_COLON = r"(?::|%(?:25)*3a)"
_SLASH = r"(?:[/\\]|%(?:25)*(?:2f|5c))"
URL_PREFIX = (
    rf"(?:[a-z][a-z0-9+.-]{{0,30}}(?={_COLON}{_SLASH}{{2}})"
    rf"|(?<![a-z0-9])(?:{'|'.join(sorted(_WEB_PROTOCOLS))})"
    rf"|(?<![a-z0-9])(?:{'|'.join(sorted(_KNOWN_PROTOCOLS))})(?={_COLON}{_SLASH}))"
    rf"{_COLON}{_SLASH}*"
)
"""A regular expression for the beginning of a URL; use it with ``re.IGNORECASE``.

An unknown protocol needs two slashes, because a folder may be called ``ward:``.
"""
_URL = re.compile(rf"({URL_PREFIX})(\S+)", re.IGNORECASE)
_WHOLE_URL = re.compile(rf"({URL_PREFIX})(.*)\Z", re.IGNORECASE | re.DOTALL)
_QUERY_START = re.compile(r"[?#;]|%(?:25)*(?:3f|23|3b)", re.IGNORECASE)
_KEY_QUERY_START = re.compile(r"[?#]")
_AT_SIGN = re.compile(r"@|%(?:25)*40", re.IGNORECASE)
_CLOSING_PUNCTUATION = "\"'`)]}>.,:;!…"
_AZURE_CONTAINER = re.compile(r"[a-z0-9$][a-z0-9-]{2,62}@[a-z0-9]{3,24}\.(?:dfs|blob)\.[a-z0-9.-]+")
_REDACTED = "…"
_SECRET_PARAMETER = re.compile(
    r"(?i)(?<=[?&;])((?:x-(?:amz|goog)-(?:signature|credential|security-token)|sig|signature|key|"
    r"token|access_token|api_?key|secret|password|accountkey|sharedaccesssignature|"
    r"awsaccesskeyid)=)[^&;\s'\"]+"
)
"""Parts of a connection string, or of a query that lost its URL."""
_REGISTERED: list[tuple[re.Pattern[str], str]] = []
_MIN_SECRET_CHARS = 4
"""Shorter secrets are not registered: they occur in many harmless texts."""


def register_secrets(arguments: Iterable[str]) -> None:
    """Register the secrets in this process's arguments, to remove them from any later text.

    A URL in a text ends at the first blank, and a name taken from its end is not a URL. Only the
    whole argument shows which parts are secret. Earlier registrations are dropped.

    Args:
        arguments: Command-line arguments or values of environment variables; any of them may be a
            URL or end in one.
    """
    _REGISTERED[:] = [
        (re.compile(_make_slash_pattern(piece)), replacement)
        for argument in arguments
        for secret, replacement in _find_secrets(argument)
        for piece in dict.fromkeys((secret, repr(secret)[1:-1]))
        if len(piece) >= _MIN_SECRET_CHARS
    ]


def redact_secrets(text: str) -> str:
    """Remove user part, query and fragment from each URL in a text.

    Args:
        text: Any text. A URL in it ends at the first blank. For a URL that contains blanks, use
            ``redact_url``, or register it first.
    """
    for pattern, replacement in _REGISTERED:
        text = pattern.sub(replacement, text)
    return _SECRET_PARAMETER.sub(r"\1***", _URL.sub(_redact_match, text))


def redact_url(url: str) -> str:
    """Remove user part, query and fragment from a URL; a path is returned unchanged."""
    match = _WHOLE_URL.match(url.lstrip()) or (_WHOLE_URL.search(url) if "://" in url else None)
    if match is None:
        return url
    return match.string[: match.end(1)] + _strip_secrets(match[1], match[2])


def _redact_match(match: re.Match[str]) -> str:
    head, rest = match.groups()
    bare = _strip_secrets(head, rest)
    if bare == rest:
        return match[0]
    closing = "" if rest.endswith(bare) else rest[len(rest.rstrip(_CLOSING_PUNCTUATION)) :]
    return head + bare + closing


def _find_secrets(argument: str) -> Iterator[tuple[str, str]]:
    """Yield the secret parts of a URL, each with its replacement."""
    match = _WHOLE_URL.search(argument[2:] if re.match("-[^-]", argument) else argument)
    if match is None:
        return
    rest = match[2]
    public = _find_public_part(match[1], rest)
    if public is None:
        yield rest, _REDACTED
    else:
        yield rest[: public.start], ""
        yield rest[public.stop :], ""


def _make_slash_pattern(text: str) -> str:
    """Return a pattern for a text that matches any number of slashes where the text has one.

    `pathlib` and `repr` change the number of slashes. The pattern of a query or fragment also
    matches its beginning, which may be the folder of a path.
    """
    first, *others = map(re.escape, re.split(r"[/\\]+", text))
    if _QUERY_START.match(text) and len(first) >= _MIN_SECRET_CHARS:
        return rf"{first}(?:[/\\]+(?:{'|'.join(others)}))*" if others else first
    return r"[/\\]+".join([first, *others])


def _strip_secrets(head: str, rest: str) -> str:
    """Return the public part of a URL after its protocol and slashes."""
    public = _find_public_part(head, rest)
    return _REDACTED if public is None else rest[public]


def _find_public_part(head: str, rest: str) -> slice | None:
    """Find the public part of a URL after its protocol and slashes; None if all is secret."""
    protocol = re.split(_COLON, head, maxsplit=1, flags=re.IGNORECASE)[0].lower()
    keyed = protocol in _KEY_PROTOCOLS
    tail = (_KEY_QUERY_START if keyed else _QUERY_START).search(rest)
    end = tail.start() if tail else len(rest)
    first = re.split(_SLASH, rest[:end], maxsplit=1, flags=re.IGNORECASE)[0]
    if keyed and not (":" in first or _AT_SIGN.search(first)):
        return slice(0, end)
    if protocol in _AZURE_PROTOCOLS and _AZURE_CONTAINER.fullmatch(first):
        return slice(0, end)
    if (
        protocol in _FOLDER_PROTOCOLS
        and not head.endswith("://")
        and not (":" in first and "@" in first)
    ):
        return slice(0, end)  # a path: its first part is not a host
    if tail and _AT_SIGN.search(
        rest, tail.start()
    ):  # a password with "?" in it, or a query with "@"
        return None
    signs = (
        _AT_SIGN.finditer(rest, 0, end)
        if _is_malformed_host(first)
        else re.finditer("@", rest[:end])
    )
    users = list(signs)
    return slice(users[-1].end() if users else 0, end)


def _is_malformed_host(first: str) -> bool:
    """Return whether the part before the first slash is not a plain host or host and port."""
    return _AT_SIGN.search(first) is not None or not re.fullmatch(
        r"[^:]*(:\d*)?|\[.*\](:\d*)?", first
    )
