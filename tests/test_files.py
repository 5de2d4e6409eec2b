"""Protects files from half a write, and JSON lines from cuts, damage and two writers."""

import multiprocessing
import os
from pathlib import Path

import pytest

from celo2 import InputError
from celo2.files import append_line, read_lines, write, write_json


def test_write_replaces_the_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "file"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(TypeError):
        write(path, "text is not bytes")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_cut_last_line_is_left_out_and_then_removed(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert read_lines(path) == []
    append_line(path, {"seed": 0})
    path.write_bytes(path.read_bytes() + '{"name": "ü'.encode()[:-1])
    assert read_lines(path) == [{"seed": 0}]
    append_line(path, {"seed": 1})
    assert path.read_text() == '{"seed": 0}\n{"seed": 1}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"seed": 0}\nno json\n', r"line 2 of .*runs.jsonl is not JSON \(.*\); delete that line"),
        (b"null\n", r"line 1 of .*runs.jsonl is not a JSON object; delete that line"),
        (b"[]\n{}\n", r"line 1 of .*runs.jsonl is not a JSON object; delete that line"),
        (b"\xff\xfe\n", r"runs.jsonl is not UTF-8 \(.*\); delete it or name another file"),
    ],
)
def test_damage_names_the_line_and_the_remedy(tmp_path, content, message):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_lines(path)
    assert path.read_bytes() == content


def _append_many(path: Path, writer: int) -> None:
    for i in range(200):
        append_line(path, {"writer": writer, "i": i, "padding": "x" * 5000})


def test_processes_share_one_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_append_many, args=(path, writer)) for writer in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    found = [(record["writer"], record["i"]) for record in read_lines(path)]
    assert sorted(found) == [(writer, i) for writer in range(2) for i in range(200)]
