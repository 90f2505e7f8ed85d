"""Notify people of a finished run: five lines to a webhook, by e-mail or to a chat.

An address may contain or be a password, so no message, log line or error repeats it. A notification
that cannot be sent is only a warning, because the run itself is finished.
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
"""Time limit for connecting to a webhook, and for each wait for its response."""
ATTEMPT_S = 30
"""Time limit for one whole attempt, however much the server sends."""
WEBHOOK_SCHEMES = {"https": "jsons", "http": "json"}
"""Apprise's name of each kind of webhook."""
_WEBHOOK_FIELDS = {"message": "text", "version": "", "attachments": "", "type": ""}
"""Apprise's own webhook fields: renamed to the notification's, or removed."""
_REASON = re.compile(r"error=(\d{3})\b|\[Errno -?\d+\] ([A-Za-z ]+)")
"""Parts of Apprise's log that say why a notification failed, and quote no address."""
_SILENT = logging.CRITICAL + 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notification:
    """Result of a scheduled run: its counts and the location of its report, no image names.

    ``report`` is the URL of the report, or of the rows. ``likeness`` says in words whether the
    batch resembles the training images, and ``news`` what is new. ``since`` is the date of the run
    before, empty for the first run. ``new`` counts the files that are new or changed since then,
    ``new_flagged`` the flagged ones among them.
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
        """Subject of an e-mail."""
        return f"{self.title}: {self.flagged:,} of {self.scored:,} X-rays flagged"

    @property
    def lines(self) -> tuple[str, str, str, str, str]:
        """Five lines: the run, its counts, what is new, how far to trust it, and the report."""
        return (
            f"{self.title}: the run of {format_run_date(self.run_date)} is done.",
            f"{format_count(self.found, 'file')} found: {self.scored:,} scored, "
            f"{self.flagged:,} of them flagged; {self.not_scored:,} not scored.",
            self.news,
            self.likeness,
            f"See {self.report}",
        )

    @property
    def text(self) -> str:
        """All five lines as one text."""
        return "\n".join(self.lines)

    @property
    def webhook_fields(self) -> dict[str, Any]:
        """Fields of a webhook's JSON, whose public name for the run date is ``night``."""
        fields = asdict(self)
        return {"night": fields.pop("run_date"), **fields}


class _DeliveryError(Exception):
    """Reason why a notification was not delivered, without its address."""


def make_notification(
    manifest: RunManifest, rows: Sequence[Score], title: str, report_url: str
) -> Notification:
    """Create the notification of a finished run.

    Args:
        manifest: Manifest of the whole run.
        rows: All its rows.
        title: Title of the report, empty for the default.
        report_url: URL of the report, or of the rows if there is no report.
    """
    card = manifest.models[0].card
    drift = describe_drift(measure_drift(rows, card), card)
    changes = manifest.changes
    return Notification(
        title=sanitize_text(title) or "Chest X-rays",
        run_date=manifest.run_date,
        found=manifest.found,
        scored=manifest.scored,
        flagged=manifest.flagged,
        not_scored=manifest.not_scored,
        since=changes.run_date if changes else "",
        new=changes.new_or_changed if changes else manifest.found,
        new_flagged=changes.flagged if changes else manifest.flagged,
        news=describe_changes(manifest) or "All are new: this is the first run.",
        likeness=drift.short_warning or drift.sentences[0],
        report=redact_secrets(report_url),
    )


def send_notification(addresses: Sequence[str], notification: Notification) -> int:
    """Send a notification to every address. Retry failures, then log a warning.

    Args:
        addresses: Addresses, as for `check_addresses`.
        notification: The notification.

    Returns:
        Number of addresses that accepted it.

    Raises:
        UsageError: An address cannot be parsed.
        MissingPackage: Apprise is not installed.
    """
    delivered = 0
    for index, (kind, send) in enumerate(_open_channels(addresses), start=1):
        try:
            _RETRYING(send, notification)
        except _DeliveryError as exc:
            log.warning(
                "The notification to address %d of %d (%s) was not sent: %s, %d times.",
                *(index, len(addresses), kind, exc, MAX_ATTEMPTS),
                extra={"event": "notice_failed", "fields": {"kind": kind, "reason": str(exc)}},
            )
            continue
        delivered += 1
        log_event("notice_sent", kind=kind)
    return delivered


def check_addresses(addresses: Sequence[str]) -> None:
    """Check before a run starts that every address can be parsed.

    Args:
        addresses: Webhooks (https:// or http://), or URLs of Apprise (mailto://, slack://, ...).

    Raises:
        UsageError: An address cannot be parsed.
        MissingPackage: Apprise is not installed.
    """
    _open_channels(addresses)


def _open_channels(addresses: Sequence[str]) -> list[tuple[str, Send]]:
    """Return each address's kind, and a function that sends there or raises _DeliveryError."""
    channels: list[tuple[str, Send]] = []
    for index, address in enumerate(addresses, start=1):
        kind = address.partition("://")[0].lower()
        send = _open_channel(kind, address)
        if send is None:
            raise UsageError(
                f"Expected an address such as https://... or mailto://... as number {index} of "
                f"--notify, found something else.",
                "See https://appriseit.com/services for all kinds.",
            )
        channels.append((kind, send))
    return channels


def _open_channel(kind: str, address: str) -> Send | None:
    """Open an address that Apprise knows; return None if it cannot be parsed."""
    try:
        import apprise
    except ImportError as exc:
        raise MissingPackage(
            "Expected the package Apprise for --notify, found none.",
            'Install it with: pip install "cxr-batch[notify]"',
        ) from exc
    logger = logging.getLogger("apprise")
    logger.setLevel(_SILENT)
    asset = apprise.AppriseAsset(
        app_id="cxr-batch",
        app_desc="cxr-batch",
        app_url="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,  # writes nothing to this machine
    )
    url = _read_webhook(address) if kind in WEBHOOK_SCHEMES else address
    channel: Any = url and apprise.Apprise.instantiate(url, asset=asset)
    if not channel:
        return None
    service = apprise.Apprise(channel, asset=asset)

    def send(notification: Notification) -> None:
        title = notification.subject
        if kind in WEBHOOK_SCHEMES:
            channel.payload_extras = {**_WEBHOOK_FIELDS, **notification.webhook_fields}
            title = channel.payload_extras.pop("title")
        logger.addFilter(reason := _Reason())
        logger.setLevel(logging.DEBUG)
        try:
            delivered = run_with_timeout(
                ATTEMPT_S,
                lambda: service.notify(notification.text, title, body_format="text"),
                lambda: None,
            )
        except TimeoutError:
            raise _DeliveryError(f"it took over {ATTEMPT_S} seconds") from None
        finally:
            logger.setLevel(_SILENT)
            logger.removeFilter(reason)
        if not delivered:
            raise _DeliveryError(reason.text or "it was refused")

    return send


def _read_webhook(address: str) -> dict[str, Any] | None:
    """Parse a webhook for Apprise with its whole query, which Apprise would read as its options."""
    try:
        parts = urlsplit(address)
        valid = bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
        f"{parts.username}{parts.password}".encode()
        f"{parts.path}{parts.query}".encode("ascii")  # HTTP wants other characters %-escaped
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
        "redirect": "no",  # a redirected POST would arrive as a GET without its body
        "cto": SILENCE_S,
        "rto": SILENCE_S,
    }


class _Reason(logging.Filter):
    """Filter that records why Apprise failed, and drops its log, which quotes addresses."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop a record, but keep the first reason in it."""
        if not self.text and (found := _REASON.search(record.getMessage())):
            status, text = found.groups()
            self.text = f"HTTP {status}" if status else text
        return False


def _log_retry(state: RetryCallState) -> None:
    log.debug("sending the notification again after attempt %d", state.attempt_number)


_RETRYING = Retrying(
    retry=retry_if_exception_type(_DeliveryError),
    stop=stop_after_attempt(MAX_ATTEMPTS),
    wait=wait_random_exponential(multiplier=1, max=10),
    before_sleep=_log_retry,
    reraise=True,
)
