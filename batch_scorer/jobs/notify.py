"""Tell people what a night came to: five lines to a webhook, by e-mail or to a chat.

An address may hold a password or be one: no message, log or error repeats it. A notice that cannot
be sent is a warning, for the night's work is done all the same.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from batch_scorer.errors import MissingPackage, UsageError
from batch_scorer.report.content.changes import describe_changes
from batch_scorer.report.content.domain_shift import describe_drift
from batch_scorer.report.content.text import format_count, format_run_date, sanitize_text
from batch_scorer.results.drift import measure_drift
from batch_scorer.system.deadline import run_with_timeout
from batch_scorer.system.log import log_event
from batch_scorer.system.redact import redact_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenacity import RetryCallState

    from batch_scorer.results.schema import RunManifest, Score

    Send = Callable[["Notification"], None]

MAX_ATTEMPTS = 4
SILENCE_S = 10
"""A webhook may say nothing for so long."""
ATTEMPT_S = 30
"""One attempt may take so long, whatever the server says meanwhile."""
WEBHOOK_SCHEMES = {"https": "jsons", "http": "json"}
"""Apprise's name of each kind of webhook."""
_WEBHOOK_FIELDS = {"message": "text", "version": "", "attachments": "", "type": ""}
"""A webhook gets the fields of a notice: Apprise's own are renamed, or left out."""
_REASON = re.compile(r"error=(\d{3})\b|\[Errno -?\d+\] ([A-Za-z ]+)")
"""Words in Apprise's log that say why a notice was not taken, and quote no address."""
_SILENT = logging.CRITICAL + 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notification:
    """What a night came to: counts and the place of its report, no film.

    ``report`` is where the report is, or the rows; ``likeness`` says whether the batch looks like
    the training films, ``news`` what is new, both in words. ``since`` is the night before, empty
    where there was none; ``new`` counts the files that are new or changed since, ``new_flagged``
    those of them that are flagged.
    """

    title: str
    run_date: str
    found: int
    scored: int
    flagged: int
    not_scored: int
    since: str
    new: int
    new_flagged: int
    news: str
    likeness: str
    report: str

    @property
    def subject(self) -> str:
        """What an e-mail is called."""
        return f"{self.title}: {self.flagged:,} of {self.scored:,} films flagged"

    @property
    def lines(self) -> tuple[str, str, str, str, str]:
        """What ran; the counts; what is new; how far to trust it; where the report is."""
        return (
            f"{self.title}: the night of {format_run_date(self.run_date)} is done.",
            f"{format_count(self.found, 'file')} found: {self.scored:,} scored, {self.flagged:,} of them "
            f"flagged; {self.not_scored:,} not scored.",
            self.news,
            self.likeness,
            f"See {self.report}",
        )

    @property
    def text(self) -> str:
        """All five lines."""
        return "\n".join(self.lines)


class _DeliveryError(Exception):
    """Why a notice was not taken, in words without its address."""


def make_notification(
    manifest: RunManifest, rows: Sequence[Score], title: str, at: str
) -> Notification:
    """What a finished night came to.

    Args:
        manifest: Of the whole night.
        rows: All of its rows.
        title: That of the report, empty for its own.
        at: Where the report is, or the rows where there is none.
    """
    card = manifest.models[0].card
    likeness = describe_drift(measure_drift(rows, card), card)
    since = manifest.changes
    return Notification(
        title=sanitize_text(title) or "Chest X-rays",
        run_date=manifest.run_date,
        found=manifest.found,
        scored=manifest.scored,
        flagged=manifest.flagged,
        not_scored=manifest.not_scored,
        since=since.run_date if since else "",
        new=since.new_or_changed if since else manifest.found,
        new_flagged=since.flagged if since else manifest.flagged,
        news=describe_changes(manifest) or "All are new: there was no night before.",
        likeness=likeness.short_warning or likeness.sentences[0],
        report=redact_secrets(at),
    )


def send_notification(addresses: Sequence[str], notice: Notification) -> int:
    """Send a notice to every address; what fails is tried again, then warned of.

    Args:
        addresses: As for `check_addresses`.
        notice: What to say.

    Returns:
        How many addresses took it.

    Raises:
        UsageError: An address cannot be understood.
        MissingPackage: Apprise is not installed.
    """
    delivered = 0
    for place, (kind, send) in enumerate(_open_channels(addresses), start=1):
        try:
            _RETRYING(send, notice)
        except _DeliveryError as exc:
            log.warning(
                "The notice to address %d of %d (%s) was not sent: %s, %d times.",
                *(place, len(addresses), kind, exc, MAX_ATTEMPTS),
                extra={"event": "notice_failed", "fields": {"kind": kind, "reason": str(exc)}},
            )
            continue
        delivered += 1
        log_event("notice_sent", kind=kind)
    return delivered


def check_addresses(addresses: Sequence[str]) -> None:
    """Make sure, before a night begins, that its end can be told.

    Args:
        addresses: Webhooks (https:// or http://), or URLs of Apprise (mailto://, slack://, ...).

    Raises:
        UsageError: One of them cannot be understood.
        MissingPackage: Apprise is not installed.
    """
    _open_channels(addresses)


def _open_channels(addresses: Sequence[str]) -> list[tuple[str, Send]]:
    """Each address's kind, and a call that sends a notice there or raises _Undelivered."""
    channels: list[tuple[str, Send]] = []
    for place, address in enumerate(addresses, start=1):
        kind = address.partition("://")[0].lower()
        send = _open_channel(kind, address)
        if send is None:
            raise UsageError(
                f"Expected an address such as https://... or mailto://..., found something else "
                f"as number {place} of --notify.",
                "https://appriseit.com/services lists all kinds.",
            )
        channels.append((kind, send))
    return channels


def _open_channel(kind: str, address: str) -> Send | None:
    """Open whatever Apprise knows; None where the address cannot be understood."""
    try:
        import apprise
    except ImportError as exc:
        raise MissingPackage(
            "--notify needs Apprise, which is not installed.",
            'Install it with: pip install "cxr-batch[notify]"',
        ) from exc
    logger = logging.getLogger("apprise")
    logger.setLevel(_SILENT)
    asset = apprise.AppriseAsset(
        app_id="cxr-batch",
        app_desc="cxr-batch",
        app_url="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,  # nothing is written to this machine
    )
    target = _read_webhook(address) if kind in WEBHOOK_SCHEMES else address
    channel: Any = target and apprise.Apprise.instantiate(target, asset=asset)
    if not channel:
        return None
    service = apprise.Apprise(channel, asset=asset)

    def send(notice: Notification) -> None:
        title = notice.subject
        if kind in WEBHOOK_SCHEMES:
            channel.payload_extras = {**_WEBHOOK_FIELDS, **asdict(notice)}
            title = channel.payload_extras.pop("title")
        logger.addFilter(reason := _Reason())
        logger.setLevel(logging.DEBUG)
        try:
            taken = run_with_timeout(
                ATTEMPT_S,
                lambda: service.notify(notice.text, title, body_format="text"),
                lambda: None,
            )
        except TimeoutError:
            raise _DeliveryError(f"it took over {ATTEMPT_S} seconds") from None
        finally:
            logger.setLevel(_SILENT)
            logger.removeFilter(reason)
        if not taken:
            raise _DeliveryError(reason.words or "it was not taken")

    return send


def _read_webhook(address: str) -> dict[str, Any] | None:
    """Read a webhook as Apprise takes it, with its query, which Apprise would take for options."""
    try:
        parts = urlsplit(address)
        valid = bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
        f"{parts.username}{parts.password}".encode()
        f"{parts.path}{parts.query}".encode("ascii")  # as HTTP sends it: others are %-escaped
    except ValueError:
        return None
    if not valid:
        return None
    path = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
    return {
        "schema": WEBHOOK_SCHEMES[parts.scheme],
        "host": parts.netloc.rpartition("@")[2],
        "user": parts.username,
        "password": parts.password or "",
        "fullpath": path,
        "redirect": "no",  # a POST that is sent elsewhere arrives as a GET, without what it says
        "cto": SILENCE_S,
        "rto": SILENCE_S,
    }


class _Reason(logging.Filter):
    """Keeps why Apprise failed, and drops all that it logs, since that quotes addresses."""

    words = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop a record."""
        if not self.words and (found := _REASON.search(record.getMessage())):
            status, words = found.groups()
            self.words = f"HTTP {status}" if status else words
        return False


def _log_retry(state: RetryCallState) -> None:
    log.debug("sending the notice again, after attempt %d", state.attempt_number)


_RETRYING = Retrying(
    retry=retry_if_exception_type(_DeliveryError),
    stop=stop_after_attempt(MAX_ATTEMPTS),
    wait=wait_random_exponential(multiplier=1, max=10),
    before_sleep=_log_retry,
    reraise=True,
)
