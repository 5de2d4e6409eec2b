"""Text as tokens: byte pairs merged by frequency (BPE), learned on the text to train on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from celo2.data.cache import cache
from celo2.data.text import Text
from celo2.files import read_arrays, write_arrays

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Tokens(NamedTuple):
    """Tokens to train on and tokens never trained on, uint16, below `vocabulary`."""

    train: np.ndarray
    held_out: np.ndarray
    vocabulary: int


def tokenized(text: Text, vocabulary: int) -> Tokens:
    """Tokenize a text, or read its tokens from the cache.

    Raises:
        InputError: the file in the cache is damaged.
    """
    import tokenizers

    source = f"{text.sha256} {vocabulary} {tokenizers.__version__}"
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    path = cache() / "tokens" / f"{name}.npz"
    if not path.exists():
        train, held_out = (_lines(part) for part in (text.train, text.held_out))
        tokenizer = learn(train, vocabulary)
        write_arrays(
            path, {"train": _encode(tokenizer, train), "held_out": _encode(tokenizer, held_out)}
        )
    return Tokens(**read_arrays(path, "delete it"), vocabulary=vocabulary)


def learn(lines: list[str], vocabulary: int) -> Tokenizer:
    """Learn merges of bytes until there are `vocabulary` tokens; every byte stays one of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = byte_level  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,  # type: ignore[call-arg]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # type: ignore[call-arg]
        show_progress=False,  # type: ignore[call-arg]
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _lines(content: np.ndarray) -> list[str]:
    """Split a text at the ends of its lines, which stay."""
    return content.tobytes().decode(errors="replace").splitlines(keepends=True)


def _encode(tokenizer: Tokenizer, lines: list[str]) -> np.ndarray:
    return np.concatenate([np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(lines)])
