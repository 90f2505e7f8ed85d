"""Permissions of a run: the folders in which a list may name images, and private hosts.

A list may come from an untrusted source. It must never make the program read a file of this machine
outside the allowed folders, or contact a host that only this machine can reach.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from batch_scorer.errors import ImageError, NotAllowed, SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAT64 = IPv6Network("64:ff9b::/96")
_LOW_32_BITS = 2**32 - 1
_EXTRA_PRIVATE_NETWORKS = tuple(
    map(ip_network, ("192.0.0.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10"))
)
"""Networks that older versions of Python report as public."""


@dataclass(frozen=True)
class AccessPolicy:
    """Permissions of a run.

    ``roots`` lists folders of this machine below which a list may name images, in addition to the
    list's own folder. ``private_hosts`` allows http URLs of hosts outside the public Internet.
    """

    roots: tuple[str, ...] = ()
    private_hosts: bool = False

    def with_root(self, folder: str) -> AccessPolicy:
        """Return these permissions with one more folder below which a list may name images."""
        return replace(self, roots=(*self.roots, folder))

    def check_path(self, path: str) -> str:
        """Resolve all links of a path that a list names.

        Returns:
            The path without links, which lies below one of the roots.

        Raises:
            NotAllowed: It lies outside all roots.
            ValueError: It cannot be a path.
        """
        real = os.path.realpath(path)
        if not any(Path(real).is_relative_to(root) for root in self._real_roots):
            raise NotAllowed(
                "Expected a path below the folder of the list or below an allowed folder, "
                "found one outside.",
                "Allow its folder with --list-root FOLDER.",
            )
        return real

    @cached_property
    def _real_roots(self) -> tuple[str, ...]:
        return tuple(map(os.path.realpath, self.roots))


@contextmanager
def raise_as_run_error() -> Iterator[None]:
    """Raise an error of one image as an error of the run, where the file read is not an image.

    Raises:
        UsageError: For NotAllowed.
        SourceError: For any other ImageError.
    """
    try:
        yield
    except NotAllowed as exc:
        raise UsageError(exc.sentence, exc.hint) from exc
    except ImageError as exc:
        raise SourceError(exc.sentence, exc.hint) from exc


def is_public_address(address: str) -> bool:
    """Return whether an IP address is public; an IPv6 address that holds an IPv4 one counts as it.

    Source: the IANA registries of special-purpose addresses (RFC 6890), as in `ipaddress`;
    RFC 3056 (6to4) and RFC 6052 (NAT64).
    """
    found = _unwrap_ipv4(ip_address(address))
    if any(found in network for network in _EXTRA_PRIVATE_NETWORKS):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _unwrap_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address holds, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & _LOW_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address
