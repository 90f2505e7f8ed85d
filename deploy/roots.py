"""Root folders instead of containers: a bare Debian, and commands that run inside one.

Every command gets its own namespaces, so that what is mounted for it ends with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploy.recipe import RecipeError, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOOLS = ("debootstrap", "unshare", "chroot", "mount", "tar", "gzip")
MIRROR = "http://deb.debian.org"
# What debian:RELEASE-slim leaves out, and its rule that no package file stays.
_SLIM = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
)
_CLEAN = 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin"; };\n'
_FETCHED = ("var/cache/apt/archives", "var/lib/apt/lists")

# In the scripts, $0 is the root.
_BUILD = """
mount -t proc proc "$0/proc"
cp -L /etc/resolv.conf "$0/etc/resolv.conf"
if [ -n "${PIP_CERT:-}" ]; then
    touch "$0/run/registry.crt"
    mount --bind "$PIP_CERT" "$0/run/registry.crt"
fi
exec chroot "$0" "$@"
"""
_RUN = """
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t tmpfs -o mode=1777,size=512m tmpfs "$0/dev/shm"
mount -t tmpfs -o mode=1777,size=1g tmpfs "$0/tmp"
mount -t tmpfs tmpfs "$0/mnt"
mkdir "$0/mnt/films" "$0/mnt/out"
mount --bind "$FILMS" "$0/mnt/films"
mount -o remount,bind,ro "$0/mnt/films"
mount --bind "$OUT" "$0/mnt/out"
mount -o remount,ro "$0/mnt"
mount -o remount,bind,ro "$0"
exec chroot "$0" "$@"
"""
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL")


@dataclass(frozen=True)
class Root:
    """The files of a stage, and how its commands run."""

    folder: Path
    settings: Settings = field(default_factory=Settings)


def make_base(image: str, folder: Path) -> Root:
    """Make what stands for debian:RELEASE-slim: a bare Debian with its archives and exclusions.

    Raises:
        RecipeError: The image is another one, or debootstrap failed.
    """
    name, _, tag = image.partition("@")[0].partition(":")
    if name != "debian":
        raise RecipeError(f"Expected a base image debian:RELEASE, found {image}.")
    release = tag.removesuffix("-slim")
    call("debootstrap", "--variant=minbase", release, str(folder), f"{MIRROR}/debian")
    archives = (
        f"debian {release}",
        f"debian {release}-updates",
        f"debian-security {release}-security",
    )
    lines = [f"deb {MIRROR}/{archive} main\n" for archive in archives]
    (folder / "etc/apt/sources.list").write_text("".join(lines))
    (folder / "etc/apt/apt.conf.d/docker-clean").write_text(_CLEAN)
    excluded = [f"path-exclude /{place}/*\n" for place in _SLIM]
    (folder / "etc/dpkg/dpkg.cfg.d/docker").write_text("".join(excluded))
    for place in (*_SLIM, *_FETCHED):
        shutil.rmtree(folder / place)
        (folder / place).mkdir()
    return Root(folder)


def build_in(root: Root, command: str) -> int:
    """Run a line of the Dockerfile, with the network and this machine's way to the registries.

    Returns:
        The exit code.
    """
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if "PIP_CERT" in os.environ:
        passed_on["PIP_CERT"] = "/run/registry.crt"
    inside = _inside({**passed_on, **root.settings.variables}, root.settings.workdir, command)
    return _isolate(_BUILD, root, inside)


def run_in(root: Root, films: Path, out: Path, command: str) -> int:
    """Run a command as a platform would run the image.

    The user is that of the settings, without capabilities or network; the root is read-only, /tmp
    is empty memory, and the folders given are at /mnt/films (read-only) and /mnt/out.

    Returns:
        The exit code.
    """
    user, _, group = root.settings.user.partition(":")
    drop = [
        *("setpriv", "--reuid", user, "--regid", group or user, "--clear-groups"),
        *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
    ]
    inside = _inside(root.settings.environment, root.settings.workdir, command)
    places = {"FILMS": str(films), "OUT": str(out)}
    return _isolate(_RUN, root, [*drop, *inside], "--net", places=places)


def call(*command: str) -> None:
    """Run a program of this machine.

    Raises:
        RecipeError: It failed.
    """
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - as above
    if done.returncode:
        raise RecipeError(f"{shlex.join(command)} ended with exit code {done.returncode}.")


def _inside(environment: Mapping[str, str], folder: str, command: str) -> list[str]:
    variables = [f"{name}={value}" for name, value in environment.items()]
    return ["env", "-i", *variables, "/bin/sh", "-c", f"cd {shlex.quote(folder)}; {command}"]


def _isolate(
    script: str,
    root: Root,
    inside: list[str],
    *apart: str,
    places: Mapping[str, str] | None = None,
) -> int:
    done = subprocess.run(  # noqa: S603 - the project's own Dockerfile
        [
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
            *(*apart, "/bin/sh", "-euc", script, str(root.folder), *inside),
        ],
        check=False,
        env={**os.environ, **(places or {})},
        stdin=subprocess.DEVNULL,
    )
    return done.returncode
