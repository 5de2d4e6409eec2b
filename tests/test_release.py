"""Protects who installs a release: wheel and sdist hold what the commands need, on every Python.

Each environment starts empty and gets the wheel with the extra `cli` from the package index. For
the Python of this test run, a .pth file then lends the frameworks of the test environment, which
are too large to install again.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import celo2

ROOT = Path(__file__).parents[1]
HERE = f"3.{sys.version_info.minor}"
pytestmark = [pytest.mark.slow, pytest.mark.integration]


def run(*command, cwd):
    """Run a command that does not see this checkout: (exit code, stdout, stderr in one line)."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def interpreters():
    """Return {version: program} of those that the machine has, on the PATH or by pyenv."""
    found = {HERE: sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in ("3.11", "3.12", "3.13"):
        programs = [
            shutil.which(f"python{version}"),
            *pyenv.glob(f"versions/{version}.*/bin/python"),
        ]
        for program in programs:
            if program and run(program, "-c", "", cwd=None)[0] == 0:
                found.setdefault(version, program)
    return found


INTERPRETERS = interpreters()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of this tree, and the wheel that is built from the sdist alone."""
    out = tmp_path_factory.mktemp("dist")
    code, _, errors = run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=ROOT
    )
    assert code == 0, errors
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environments(built, tmp_path_factory):
    """Make an empty environment with the wheel, once per version."""
    made = {}

    def environment(version):
        if version not in made:
            folder = tmp_path_factory.mktemp(f"python{version}")
            python = folder / "venv/bin/python"
            make = ("-m", "venv", "--without-pip", folder / "venv")
            run(INTERPRETERS[version], *make, cwd=folder)
            install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
            code, _, errors = run(
                sys.executable,
                *install,
                "--constraint",
                ROOT / "constraints.txt",
                f"{built[1]}[cli]",
                cwd=folder,
            )
            assert code == 0, errors
            made[version] = folder
        return made[version]

    return environment


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changes = re.search(r"(?m)^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text())
    citation = re.search(r"(?m)^version: (\S+)$", (ROOT / "CITATION.cff").read_text())
    readme = re.search(r"version = \{(\S+)\}", (ROOT / "README.md").read_text())
    stated = [found[1] for found in (changes, citation, readme) if found]
    assert stated == 3 * [project["version"]]
    assert celo2.__version__ == project["version"]


def test_the_wheel_holds_weights_cards_and_types_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    for name in celo2.shipped():
        assert f"celo2/weights/{name}.safetensors" in names
    cards = (
        "celo2/weights/README.md",
        "celo2/baselines/weights/README.md",
        "celo2/torch/README.md",
        "celo2/py.typed",
    )
    assert set(cards) <= names
    info = f"celo2-{celo2.__version__}.dist-info"
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= names
    assert {name.split("/")[0] for name in names} == {"celo2", info}
    assert not [name for name in names if name.endswith((".pyc", ".part"))]


def test_every_shipped_theta_has_its_column_in_the_card():
    card = (ROOT / "celo2/weights/README.md").read_text()
    for name in celo2.shipped():
        assert f"`{celo2.load_theta(name).identity}`" in card


def test_the_sdist_holds_tests_and_records(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"tests/test_release.py", "records/README.md", "docs/algorithm.md", "Makefile"} <= names
    assert not [name for name in names if name.startswith(("runs/", "site/", ".venv"))]


@pytest.mark.parametrize("version", list(INTERPRETERS))
def test_commands_work_or_say_what_they_need_without_a_checkout(environments, version):
    folder = environments(version)
    python = folder / "venv/bin/python"
    code, shown, _ = run(folder / "venv/bin/celo2", "--help", cwd=folder)
    assert code == 0
    assert "meta-train" in shown
    load = "import celo2; print(celo2.__file__, celo2.load_theta('celo2').identity)"
    _, shown, _ = run(python, "-c", load, cwd=folder)
    assert shown.startswith(str(folder))
    assert shown.split()[1] == celo2.load_theta("celo2").identity
    needs = "in a checkout: pip install -e '.[meta]'"
    for command in ("validate", "experiments", "report"):
        code, _, errors = run(folder / "venv/bin/celo2", command, cwd=folder)
        assert code == 2
        assert re.fullmatch(rf"celo2 {command} needs \w+; {re.escape(needs)}", errors)


def test_with_the_frameworks_commands_say_which_folder_they_need(environments):
    folder = environments(HERE)
    python = folder / "venv/bin/python"
    _, site, _ = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    )
    lent = Path(site.strip()) / "lent.pth"
    lent.write_text(sysconfig.get_path("purelib"))
    try:
        celo2_ = folder / "venv/bin/celo2"
        code, _, errors = run(celo2_, "experiments", cwd=folder)
        assert code == 2
        assert "holds no experiments; run from a checkout, or give another" in errors
        code, _, errors = run(celo2_, "report", cwd=folder)
        assert code == 2
        assert errors.endswith("has no folder records; give the folder of a checkout")
        code, _, errors = run(celo2_, "validate", "nothing", cwd=folder)
        assert code == 2
        assert "neither a file nor one of celo2, celo2-base" in errors
        recorded = ("--folder", ROOT / "records/experiments")
        muon = ("--baselines", ROOT / "records/validation/runs.jsonl")
        code, shown, errors = run(celo2_, "experiments", *recorded, *muon, cwd=folder)
        assert code == 0, errors
        assert "024-default-preset" in shown
        step = (
            "import celo2, torch, celo2.torch; m = torch.nn.Linear(3, 3);"
            "o = celo2.torch.Celo2(m, lr=1);"
            "m(torch.ones(1, 3)).sum().backward(); o.step(); print(celo2.__file__)"
        )
        _, shown, errors = run(python, "-c", step, cwd=folder)
        assert shown.startswith(str(folder)), errors
    finally:
        lent.unlink()
