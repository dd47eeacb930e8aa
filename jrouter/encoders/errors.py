"""The error of text encoders."""


class EncoderError(ValueError):
    """A text encoder that cannot be loaded or run: one sentence that says what is wrong and what to do."""
