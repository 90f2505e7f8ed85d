"""URLs in texts that people and machines keep: no user part, no query, no fragment, ever.

Any of them may be a password, whatever its name is, so nothing is told apart by a list of names.
A mistyped URL may hold its password where no parser looks for it: whatever could belong to a user
part goes too, even where that costs a piece of an honest path. One with too few slashes, or too
many, or backslashes is a URL here too: people type them, and `pathlib` takes a slash away.
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
"""Protocols of buckets and folders: a path of theirs is a key, which may hold any character."""
_KNOWN_PROTOCOLS = {*_KEY_PROTOCOLS, "ftp", "ftps", "sftp"}
_COLON = r"(?::|%(?:25)*3a)"
_SLASH = r"(?:[/\\]|%(?:25)*(?:2f|5c))"
URL_PREFIX = (
    rf"(?:[a-z][a-z0-9+.-]{{0,30}}(?={_COLON}{_SLASH}{{2}})"
    rf"|(?<![a-z0-9])(?:{'|'.join(sorted(_WEB_PROTOCOLS))})"
    rf"|(?<![a-z0-9])(?:{'|'.join(sorted(_KNOWN_PROTOCOLS))})(?={_COLON}{_SLASH}))"
    rf"{_COLON}{_SLASH}*"
)
"""How a URL begins, in a regular expression without regard to case.

Of a protocol that is none of these, two slashes make a URL: a folder may be called ``ward:``.
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
"""Characters of what is learnt: fewer stand in many an honest text."""


def register_secrets(arguments: Iterable[str]) -> None:
    """Learn what is secret in what this process was given, to hide it wherever a text quotes it.

    A URL in a text ends at the first blank, and a name taken from its end is none: only who has
    seen the whole argument knows what it holds. What was learnt before is forgotten.

    Args:
        arguments: Arguments of a command line, or values of the environment; any of them may be, or
            end in, a URL.
    """
    _REGISTERED[:] = [
        (re.compile(_make_slash_pattern(piece)), instead)
        for argument in arguments
        for secret, instead in _find_secrets(argument)
        for piece in dict.fromkeys((secret, repr(secret)[1:-1]))
        if len(piece) >= _MIN_SECRET_CHARS
    ]


def redact_secrets(text: str) -> str:
    """Remove from each URL in a text its user part, query and fragment.

    Args:
        text: Any text. A URL in it ends at the first blank; of one that may hold a blank itself,
            `scrub_url` leaves no more, nor does this where it was learnt.
    """
    for pattern, instead in _REGISTERED:
        text = pattern.sub(instead, text)
    return _SECRET_PARAMETER.sub(r"\1***", _URL.sub(_redact_match, text))


def redact_url(place: str) -> str:
    """Remove user part, query and fragment from a URL that is the whole text; a path stays."""
    match = _WHOLE_URL.match(place.lstrip()) or (
        _WHOLE_URL.search(place) if "://" in place else None
    )
    if match is None:
        return place
    return match.string[: match.end(1)] + _strip_secrets(match[1], match[2])


def _redact_match(match: re.Match[str]) -> str:
    head, rest = match.groups()
    bare = _strip_secrets(head, rest)
    if bare == rest:
        return match[0]
    closing = "" if rest.endswith(bare) else rest[len(rest.rstrip(_CLOSING_PUNCTUATION)) :]
    return head + bare + closing


def _find_secrets(argument: str) -> Iterator[tuple[str, str]]:
    """The parts of a URL that are not shown, each with what stands in its place."""
    match = _WHOLE_URL.search(argument[2:] if re.match("-[^-]", argument) else argument)
    if match is None:
        return
    rest = match[2]
    shown = _find_public_part(match[1], rest)
    if shown is None:
        yield rest, _REDACTED
    else:
        yield rest[: shown.start], ""
        yield rest[shown.stop :], ""


def _make_slash_pattern(text: str) -> str:
    """A pattern of a text, however many slashes `pathlib` or `repr` made of those in it.

    Of a query or fragment it also finds the beginning, as the folder of a path that ends in it.
    """
    first, *others = map(re.escape, re.split(r"[/\\]+", text))
    if _QUERY_START.match(text) and len(first) >= _MIN_SECRET_CHARS:
        return rf"{first}(?:[/\\]+(?:{'|'.join(others)}))*" if others else first
    return r"[/\\]+".join([first, *others])


def _strip_secrets(head: str, rest: str) -> str:
    """What of a URL, after its protocol and slashes, may be shown."""
    shown = _find_public_part(head, rest)
    return _REDACTED if shown is None else rest[shown]


def _find_public_part(head: str, rest: str) -> slice | None:
    """Where that lies in a URL, after its protocol and slashes; None where nothing may be shown."""
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
        return slice(0, end)  # a path, of which the first part is no host
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
    """Whether the part before the first slash is no plain host, or host and port."""
    return _AT_SIGN.search(first) is not None or not re.fullmatch(
        r"[^:]*(:\d*)?|\[.*\](:\d*)?", first
    )
