"""URLs in texts that people and machines keep: no user part, no query, no fragment, ever.

Any of them may be a password, whatever its name is, so nothing is told apart by a list of names.
A mistyped URL may hold its password where no parser looks for it: whatever could belong to a user
part goes too, even where that costs a piece of an honest path.
"""

from __future__ import annotations

import re

_URL = re.compile(r"([a-z][a-z0-9+.-]{0,30})((?::|%3a)(?:/|%2f){2})(\S+)", re.IGNORECASE)
_TAIL = re.compile(r"[?#;]|%(?:25)*(?:3f|23|3b)", re.IGNORECASE)
_TAIL_OF_KEY = re.compile(r"[?#]")
_AT = re.compile(r"@|%(?:25)*40", re.IGNORECASE)
_CLOSING = "\"'`)]}>.,:;!…"
_KEYS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file", "local", "memory"}
"""Protocols of buckets and folders: a path of theirs is a key, which may hold any character."""
_AZURE = {"az", "abfs", "abfss"}
_CONTAINER = re.compile(r"[a-z0-9$][a-z0-9-]{2,62}@[a-z0-9]{3,24}\.(?:dfs|blob)\.[a-z0-9.-]+")
_HIDDEN = "…"
_SECRET = re.compile(
    r"(?i)(?<=[?&;])((?:x-(?:amz|goog)-(?:signature|credential|security-token)|sig|signature|key|"
    r"token|access_token|api_?key|secret|password|accountkey|sharedaccesssignature|"
    r"awsaccesskeyid)=)[^&;\s'\"]+"
)
"""Parts of a connection string, or of a query that lost its URL."""


def scrub(text: str) -> str:
    """Remove from each URL in a text its user part, query and fragment.

    Args:
        text: Any text. A URL in it ends at the first blank; of one that may hold a blank itself,
            `scrub_url` leaves no more.
    """
    return _SECRET.sub(r"\1***", _URL.sub(_scrub_match, text))


def scrub_url(place: str) -> str:
    """Remove user part, query and fragment from a URL that is the whole text; a path stays."""
    match = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)(://)(.*)\Z", place, re.DOTALL)
    if match is None:
        return scrub(place) if "://" in place else place
    return match[1] + match[2] + _strip(match[1].lower(), match[3])


def _scrub_match(match: re.Match[str]) -> str:
    rest = match[3]
    bare = _strip(match[1].lower(), rest)
    if bare == rest:
        return match[0]
    closing = "" if rest.endswith(bare) else rest[len(rest.rstrip(_CLOSING)) :]
    return match[1] + match[2] + bare + closing


def _strip(protocol: str, rest: str) -> str:
    """What of a URL, after its protocol, may be shown."""
    keyed = protocol in _KEYS
    tail = (_TAIL_OF_KEY if keyed else _TAIL).search(rest)
    head = rest[: tail.start()] if tail else rest
    first = re.split(r"/|%2f", head, maxsplit=1, flags=re.IGNORECASE)[0]
    if keyed and not (":" in first or _AT.search(first)):
        return head
    if protocol in _AZURE and _CONTAINER.fullmatch(first):
        return head
    if tail and _AT.search(rest, tail.start()):  # a password with "?" in it, or a query with "@"
        return _HIDDEN
    users = list(_AT.finditer(head) if _is_odd(first) else re.finditer("@", head))
    return head[users[-1].end() :] if users else head


def _is_odd(first: str) -> bool:
    """Whether the part before the first slash is no plain host, or host and port."""
    return _AT.search(first) is not None or not re.fullmatch(r"[^:]*(:\d*)?|\[.*\](:\d*)?", first)
