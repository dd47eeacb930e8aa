"""Texts that make an encoder compile all that short ones need, before a service takes traffic."""

from collections.abc import Iterator

import jax
import numpy as np

from jrouter.encoders.encode import Encoder


def texts_of_all_widths(encoder: Encoder, longest: int) -> Iterator[str]:
    """Texts that need, alone, each of the shapes that an encoder has for one text of up to `longest` characters.

    >>> from jrouter.encoders.load import load_encoder
    >>> [len(text) for text in texts_of_all_widths(load_encoder(dim=8), 28)]
    [1, 8, 11, 15, 22, 28]
    """
    # More tokens to a character, and n-grams that repeat less, than a language has.
    letters = np.random.default_rng(0).integers(ord("a"), ord("z") + 1, longest).astype(np.uint8)
    letters[5::6] = ord(" ")
    words = letters.tobytes().decode()
    shapes, length, done = set(), 1, False
    while not done:
        done = length >= longest
        (batch,) = encoder.prepare([words[:length]])
        shape = tuple(leaf.shape for leaf in jax.tree.leaves(batch.inputs))
        if shape not in shapes:
            shapes.add(shape)
            yield words[:length]
        length = min(length + max(1, length // 16), longest)
