"""Storage outages: ends a run whose storage is down, or skips one server of an image list."""

from __future__ import annotations

from dataclasses import dataclass, field

from batch_scorer.errors import TransientError, Unreadable
from batch_scorer.storage.filesystem import MAX_REMOTE_READS

OUTAGE_IMAGES = 2 * MAX_REMOTE_READS
"""Images in a row without a response, each tried `MAX_ATTEMPTS` times, that show an outage."""


@dataclass
class OutageTracker:
    """Count of images in a row without a response, by server.

    If all images are on one server, its outage ends the run. In a list over several servers, the
    others continue; the images of the failed server become rows without a request.
    """

    servers: int = 1
    _images: dict[str, int] = field(default_factory=dict, repr=False)  # names may hold secrets

    def check(self, server: str) -> None:
        """Refuse a request to a server that is down.

        Raises:
            Unreadable: The server is down, and the list has others.
        """
        if self.servers > 1 and self._images.get(server, 0) >= OUTAGE_IMAGES:
            raise Unreadable(
                f"It was not requested: its server did not respond for {OUTAGE_IMAGES} images.",
                "Run the same command again to try it.",
            )

    def is_suspect(self, server: str) -> bool:
        """Return whether one more image without a response would show an outage."""
        return self._images.get(server, 0) >= OUTAGE_IMAGES - 1

    def record_suspect(self, server: str) -> None:
        """Count an image without a response to a single attempt; this alone shows no outage."""
        self._images[server] = min(self._images.get(server, 0) + 1, OUTAGE_IMAGES - 1)

    def record_success(self, server: str) -> None:
        """Reset the count of a server that has responded."""
        self._images[server] = 0

    def record_failure(self, server: str, what: str, exc: Exception) -> None:
        """Count an image without a response to all attempts.

        Args:
            server: The server of the image.
            what: The images and the reason, for the error.
            exc: The error of the last attempt.

        Raises:
            TransientError: The only server is down.
        """
        self._images[server] = self._images.get(server, 0) + 1
        if self.servers == 1 and self._images[server] >= OUTAGE_IMAGES:
            raise TransientError(
                f"No response for the last {self._images[server]} {what}.",
                "Check address and network, then run the same command again.",
            ) from exc
