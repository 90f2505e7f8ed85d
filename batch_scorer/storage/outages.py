"""Storage that has stopped answering: when a run ends for it, and when only its images are rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from batch_scorer.errors import TransientError, Unreadable
from batch_scorer.storage.filesystem import MAX_REMOTE_READS

OUTAGE_IMAGES = 2 * MAX_REMOTE_READS
"""So many films in a row without an answer, each tried ATTEMPTS times: the storage is away."""


@dataclass
class OutageTracker:
    """How many images in a row got no answer, by server.

    Where all images are on one of them, the run ends when it is away. Of a list over several, the
    others go on; that server's images become rows without being asked for.
    """

    servers: int = 1
    _images: dict[str, int] = field(default_factory=dict, repr=False)  # names may hold secrets

    def check(self, server: str) -> None:
        """See whether it is worth asking.

        Raises:
            Unreadable: It is not.
        """
        if self.servers > 1 and self._images.get(server, 0) >= OUTAGE_IMAGES:
            raise Unreadable(
                f"It was not asked for: its server gave no answer for {OUTAGE_IMAGES} images.",
                "Run the same command again to try it.",
            )

    def suspects(self, server: str) -> bool:
        """Whether one more image without an answer shows that a server is away."""
        return self._images.get(server, 0) >= OUTAGE_IMAGES - 1

    def record_suspect(self, server: str) -> None:
        """Note that an image got no answer to a single attempt, which alone shows no outage."""
        self._images[server] = min(self._images.get(server, 0) + 1, OUTAGE_IMAGES - 1)

    def forget(self, server: str) -> None:
        """Note an answer."""
        self._images[server] = 0

    def note(self, server: str, words: str, exc: Exception) -> None:
        """Note that an image got no answer.

        Raises:
            TransientError: It is the last of many, and there is no other server.
        """
        self._images[server] = self._images.get(server, 0) + 1
        if self.servers == 1 and self._images[server] >= OUTAGE_IMAGES:
            raise TransientError(
                f"No answer for the last {self._images[server]} {words}.",
                "Check address and network, then run the same command again.",
            ) from exc
