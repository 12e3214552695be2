"""What a quality classifier is trained with."""

from __future__ import annotations

from pydantic import Field

from stages.step import Settings


class TrainSettings(Settings):
    """What a classifier is trained with. The defaults are DCLM's (mlfoundations/dclm, train_fasttext_classifier.py;
    word n-grams from the paper, section 4.4), but for one thread, which makes the model the same every time.
    """

    positive: str = Field(default="hq", pattern=r"^[^\s\x00]+$")
    """Label of the good documents, without `__label__`."""
    negative: str = Field(default="cc", pattern=r"^[^\s\x00]+$")
    """Label of the ordinary documents."""
    word_ngrams: int = Field(default=2, ge=1)
    """Longest run of words that is a feature."""
    dim: int = Field(default=100, ge=1)
    """Numbers that stand for a word."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate at the start; it falls to 0 in a straight line."""
    epoch: int = Field(default=5, ge=1)
    """Passes over the training text."""
    min_count: int = Field(default=1, ge=1)
    """Occurrences below which a word is not in the dictionary."""
    ws: int = Field(default=5, ge=1)
    """Context window. A classifier does not use it; it is written into the model as DCLM's has it."""
    bucket: int = Field(default=2_000_000, ge=1)
    """Hash buckets for word n-grams: bucket * dim * 4 bytes of memory while training, and of the model file. 100,000
    are plenty for some ten thousand documents."""
    threads: int = Field(default=1, ge=1)
    """More than one is faster, and gives another model every time."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the order of the documents, the choice of those held out, and fastText's own numbers."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the documents of each label kept from training, to judge the classifier by."""
    held_out_max: int = Field(default=20_000, ge=1)
    """At most this many of each label."""
    shuffle_mb: int = Field(default=32, ge=1)
    """MB of text in memory while it is put in order."""
