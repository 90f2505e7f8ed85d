"""Permissions: which addresses are public, and what lies below a folder."""

from __future__ import annotations

import pickle

import pytest

from batch_scorer.errors import NotAllowed
from batch_scorer.storage.access import AccessPolicy, is_public_address


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.7", "172.16.0.1", "192.168.1.1"),
        *(
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "192.0.0.170",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.9",
        ),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1"),
        *("ff02::1", "100::1", "2001:db8::1", "3fff::1", "5f00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:0"),
        *("64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1"),
        *("2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::"),
    ],
)
def test_no_address_of_a_private_network_is_public(address):
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"),
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
    ],
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public_address(address)


def test_only_what_lies_below_a_root_after_all_links_is_allowed(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "inside and more"
    inside.mkdir()
    outside.mkdir()
    (outside / "film.png").touch()
    (inside / "film.png").touch()
    (inside / "out.png").symlink_to(outside / "film.png")
    (inside / "within.png").symlink_to("film.png")
    (inside / "folder").symlink_to(outside)
    (tmp_path / "root").symlink_to(inside)
    (inside / "loop").symlink_to("loop")
    access = AccessPolicy((str(tmp_path / "root"),))
    real = str(inside / "film.png")
    for path in (
        "root/film.png",
        "inside/film.png",
        "inside/within.png",
        "root/../inside/film.png",
    ):
        assert access.check_path(str(tmp_path / path)) == real
    assert access.check_path(str(inside / "nothing"))
    assert access.check_path(str(inside / "loop"))
    for path in ("inside/out.png", "inside/folder/film.png", "inside/../inside and more/film.png"):
        with pytest.raises(NotAllowed, match=r"found one outside. Allow .* --list-root FOLDER"):
            access.check_path(str(tmp_path / path))
    assert access.with_root(str(outside)).check_path(str(inside / "out.png"))
    with pytest.raises(NotAllowed):
        AccessPolicy().check_path(real)


def test_permissions_travel_to_other_processes():
    access = AccessPolicy(("/films",), private_hosts=True)
    assert pickle.loads(pickle.dumps(access)) == access
