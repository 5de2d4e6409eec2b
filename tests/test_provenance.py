"""Protects provenance: a result names celo2's commit, and never that of a user's own project."""

import subprocess
from pathlib import Path

import celo2
from celo2.provenance import commit, provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def package(folder):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


def test_the_commit_of_a_checkout_says_whether_files_differ_from_it(tmp_path):
    source = package(tmp_path / "project" / "celo2")
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "first")
    head = git(source, "rev-parse", "HEAD")
    (tmp_path / "project" / "records").write_text("not of the package")
    assert commit(source) == head
    (source / "__init__.py").write_text("changed")
    commit.cache_clear()
    assert commit(source) == f"{head}-dirty"


def test_a_package_installed_inside_a_users_repository_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "own.py").write_text("")
    git(tmp_path, "add", "own.py")
    git(tmp_path, "commit", "-q", "-m", "own")
    assert commit(package(tmp_path / "venv" / "site-packages" / "celo2")) == "unknown"


def test_a_package_outside_any_repository_has_no_commit(tmp_path):
    assert commit(package(tmp_path / "celo2")) == "unknown"


def test_versions_are_those_that_are_installed():
    found = provenance("numpy")
    assert found["versions"]["celo2"] == celo2.__version__
    assert found["versions"]["numpy"]
    assert found["commit"] == commit(Path(celo2.__file__).parent)
