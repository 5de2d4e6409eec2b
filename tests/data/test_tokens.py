"""Protects text as tokens and its split by year, and tables."""

import numpy as np
import pytest

from celo2 import InputError
from celo2.data.tables import read
from celo2.data.text import Text, by_year
from celo2.data.tokens import learn, tokenized

SAMPLE = "The state of the Union is strong.\nThe Union is one, \u00fcber alles \U0001f600!\n\n"


def as_text(train, held_out):
    parts = (np.frombuffer(part.encode(), np.uint8) for part in (train, held_out))
    return Text("sample", *parts)


def test_years_ending_in_five_are_held_out(tmp_path):
    for year in range(1990, 2000):
        (tmp_path / f"{year}_name_x.txt").write_text(f"spoken in {year}")
    train, held_out = (part.tobytes() for part in by_year(sorted(tmp_path.iterdir())))
    assert held_out == b"spoken in 1995"
    assert train == b"\n".join(b"spoken in %d" % y for y in range(1990, 2000) if y != 1995)


def test_tokens_give_the_text_back():
    tokenizer = learn(SAMPLE.splitlines(keepends=True), vocabulary=280)
    assert tokenizer.get_vocab_size() == 280
    for text in (SAMPLE, "Bytes never seen: \u4e2d\t\r\n"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokens_are_learned_from_what_is_trained_on_alone_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CELO2_DATA", str(tmp_path))
    text = as_text(20 * SAMPLE, "zzzzzzzz")
    found = tokenized(text, 300)
    assert len(found.train) < len(text.train) / 2
    assert len(found.held_out) == 8, "no merge was learned from the held-out text"
    assert max(found.train.max(), found.held_out.max()) < 300
    (path,) = (tmp_path / "tokens").iterdir()
    again = tokenized(text, 300)
    np.testing.assert_array_equal(found.train, again.train)
    path.unlink()
    np.testing.assert_array_equal(found.train, tokenized(text, 300).train)
    tokenized(text, 301)
    assert len(list((tmp_path / "tokens").iterdir())) == 2


HEADER = "carat,cut,color,clarity,depth,table,price,x,y,z"


def test_a_table_is_standardized_by_its_rows_to_train_on(tmp_path):
    rng = np.random.default_rng(0)
    lines = [HEADER]
    for i in range(200):
        numbers = rng.uniform(1, 9, size=7).round(3)
        carat, depth, width, price, x, y, z = numbers
        lines.append(f"{carat},{'AB'[i % 2]},C,{'DEF'[i % 3]},{depth},{width},{price},{x},{y},{z}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    train, held_out = read(tmp_path / "table.csv")
    assert train.features.shape == (180, 6 + 2 + 1 + 3)
    assert held_out.features.shape == (20, 12)
    np.testing.assert_allclose(train.features[:, :6].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.features[:, :6].std(0), 1, atol=1e-5)
    np.testing.assert_allclose([train.target.mean(), train.target.std()], [0, 1], atol=1e-5)
    assert set(np.unique(train.features[:, 6:])) == {0, 1}
    np.testing.assert_array_equal(train.features[:, 6:].sum(1), 3)
    known = {row.tobytes() for row in train.features}
    assert not any(row.tobytes() in known for row in held_out.features)


def test_a_table_without_a_column_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("carat,cut\n1,A\n")
    with pytest.raises(InputError, match="no column 'depth'"):
        read(tmp_path / "table.csv")
