"""Protects the command line: bad input is one sentence, and text is printed as it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from celo2 import Spec, Theta
from celo2.cli import main
from celo2.cli.inspect import table

ROOT = Path(__file__).parents[2]


def celo2(*arguments, **env):
    """Run a command in a process of its own, as a user does."""
    import os

    command = [sys.executable, "-m", "celo2.cli", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, timeout=300, env=env, cwd=ROOT)


def refused(capsys, *arguments):
    """Run a command in this process; what it says on stderr when it exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "--optimizers", "sgd"),
            "celo2 train: unknown optimizer 'sgd': take some of celo2, adamw, muon-0.95, muon-0.9",
        ),
        (
            ("train", "--text", "/absent"),
            "celo2 train: cannot read the text /absent (No such file or directory); "
            "give a readable",
        ),
        (
            ("train", "--optimizers"),
            "celo2 train: --optimizers is empty; give some of celo2, adamw",
        ),
        (
            ("train", "--optimizers", "celo2", "celo2"),
            "celo2 train: --optimizers is celo2 celo2; give each of them once",
        ),
        (
            ("train", "--optimizers", "celo2", "--theta", "adam"),
            "celo2 train: unknown theta 'adam': neither a file nor one of celo2, celo2-base",
        ),
        (("train", "--seed", "-1"), "celo2 train: --seed is -1; give a number from 0 to 2^64 - 1"),
        (("train", "--seed", "9" * 20), "celo2 train: --seed is 99999999999999999999; give a"),
        (("train", "--seeds", "0"), "celo2 train: --seeds is 0; give at least 1"),
        (("train", "--steps", "0"), "celo2 train: --steps is 0; give at least 1"),
        (("train", "--width", "100"), "celo2 train: --width is 100; give a multiple of 32, the"),
        (
            ("meta-train", "--preset", "x"),
            "celo2 meta-train: unknown preset 'x': take one of",
        ),
        (
            ("meta-train", "--outer-steps", "3"),
            "--outer-steps is 3; give more than the 20 of the warm-up",
        ),
        (("meta-train", "--trajectories", "0"), "--trajectories is 0; give at least 1"),
        (
            ("meta-train", "--processes", "2"),
            "--coordinator, --processes and --process go together; give all or none",
        ),
        (("routing", "absent:x"), "give module:callable, callable without arguments"),
        (("routing", "os:abort_"), "cannot make a model of 'os:abort_' (AttributeError"),
        (
            ("routing", "os:getcwd"),
            "'os:getcwd' returns a str; give a callable that returns a torch",
        ),
        (
            ("inspect", "nope"),
            "celo2 inspect: unknown theta 'nope': neither a file nor one of celo2",
        ),
        (
            ("validate", "--problems", "mnist"),
            "unknown problem 'mnist': take some of byte-transformer",
        ),
        (("validate", "--problems"), "celo2 validate: --problems is empty; give at least one"),
        (("validate", "--seeds", "0"), "celo2 validate: --seeds is 0; give at least 1"),
        (("validate", "absent.safetensors"), "unknown theta 'absent.safetensors'"),
        (
            ("validate", "celo2", "celo2"),
            "two of the thetas go by the name celo2; give each file its",
        ),
        (("bench", "--problems", "mnist"), "unknown problem 'mnist': take some of cifar10-resnet"),
        (("bench", "--problems"), "celo2 bench: --problems is empty; give at least one"),
        (("bench", "--seeds", "0"), "celo2 bench: --seeds is 0; give at least 1"),
        (("bench", "--longer", "0"), "celo2 bench: --longer is 0; give at least 1"),
        (("bench", "--optimizers", "adam"), "unknown optimizer 'adam': take some of adamw, muon"),
        (("bench", "--optimizers", "os:absent"), "optimizer 'os:absent' cannot be imported"),
        (
            ("bench", "--part", "single", "--optimizers", "sgd", "--validation", "/absent"),
            "/absent have no settings of sgd on all problems; run: celo2 validate --optimizers sgd",
        ),
        (
            ("report", "--page", "page.html", "--records", "/absent"),
            "/absent/runs.jsonl has no tuned optimizer; run: celo2 bench",
        ),
        (("experiments", "x"), "unknown experiment 'x': take some of 001-published-objective"),
        (
            ("experiments", "--folder", "/absent"),
            "--folder /absent holds no experiments; run from a",
        ),
        (("data", "get", "x"), "unknown data set 'x': take one of mnist, fashion-mnist, cifar10"),
        (("data", "get"), "celo2 data: data get needs a name; take some of mnist"),
        (("report", "--root", "/absent"), "--root /absent has no folder records; give the folder"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(
    arguments, message, capsys, tmp_path, monkeypatch
):
    if arguments[0] in ("train", "validate", "meta-train"):
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.chdir(ROOT)
    errors = refused(capsys, *arguments)
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\n", "is not UTF-8"),
        (b"[]\n", "line 1 of"),
        (b"5\n", "is not a JSON object; delete that line"),
        (b"null\n", "is not a JSON object; delete that line"),
        (b"{}\n", "is no run; delete that line"),
    ],
)
@pytest.mark.parametrize("command", ["train", "validate", "bench"])
def test_a_damaged_store_is_one_sentence(command, content, message, capsys, tmp_path):
    (tmp_path / "runs.jsonl").write_bytes(content)
    assert message in refused(capsys, command, "--out", tmp_path)
    assert (tmp_path / "runs.jsonl").read_bytes() == content


@pytest.mark.slow
def test_a_process_exits_with_code_two_and_no_traceback():
    done = celo2("train", "--steps", "1", "--out", "/dev/null")
    assert done.returncode == 2
    assert b"celo2 train: [Errno" in done.stderr
    assert b"Traceback" not in done.stderr


def test_names_in_brackets_are_printed_as_they_are(capsys, tmp_path, monkeypatch):
    (tmp_path / "bracketed.py").write_text(
        "from torch import nn\n"
        "def model():\n"
        "    net = nn.Sequential()\n"
        "    for name in ('up[a]', '[/x]', ':smile:'):\n"
        "        net.add_module(name, nn.Linear(4, 4))\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    main(["routing", "bracketed:model"])
    shown = capsys.readouterr().out
    for name in ("up[a].weight", "[/x].weight", ":smile:.weight"):
        assert name in shown


def test_a_model_that_raises_is_one_sentence(capsys, tmp_path, monkeypatch):
    (tmp_path / "broken_model.py").write_text("def model():\n    raise RuntimeError('no [GPU]')\n")
    monkeypatch.chdir(tmp_path)
    errors = refused(capsys, "routing", "broken_model:model")
    assert "cannot make a model of 'broken_model:model' (RuntimeError: no [GPU])" in errors


def test_routing_of_the_demo(capsys):
    main(["routing"])
    assert "output head (Linear" in capsys.readouterr().out


@pytest.mark.slow
def test_inspect_draws_a_theta(tmp_path, capsys):
    main(["inspect", "celo2", "--out", str(tmp_path)])
    pictures = sorted(path.name for path in (tmp_path / "celo2").iterdir())
    assert pictures == ["channels.png", "memory.png"]
    assert str(tmp_path / "celo2" / "memory.png") in capsys.readouterr().out.replace("\n", "")


def test_inspect_lists_thetas_with_other_decays_beside_each_other():
    thetas = [Theta.random(0, Spec()), Theta.random(0, Spec(momentum_decays=(0.5, 0.99, 0.999)))]
    columns = [list(column.cells) for column in table(thetas).columns]
    rows = dict(zip(columns[0], zip(*columns[1:], strict=True), strict=True))
    assert rows["M 0.5"][0] == rows["M 0.9"][1] == ""
    assert rows["M 0.9"][0] == rows["M 0.5"][1] != ""


def test_rich_and_tyro_are_imported_in_the_command_line_only():
    for path in (ROOT / "celo2").rglob("*.py"):
        imports = _imports(path)
        if "cli" not in path.parts:
            assert not imports & {"rich", "tyro", "celo2.cli"}, path
        if "meta" in path.relative_to(ROOT).parts:
            assert "celo2.evaluate" not in imports, path
        if "evaluate" in path.relative_to(ROOT).parts:
            assert "celo2.meta" not in imports, path


def _imports(path):
    """Top-level packages, and for celo2 the rooms, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            found.add(".".join(parts[:2]) if parts[0] == "celo2" else parts[0])
    return found


def test_the_benchmark_lists_its_problems_and_optimizers(capsys):
    from celo2.evaluate.baselines import OPTIMIZERS
    from celo2.evaluate.suites import BENCHMARK

    main(["bench", "--list"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*BENCHMARK, *OPTIMIZERS))
