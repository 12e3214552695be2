"""What a quality classifier is trained with."""

from __future__ import annotations

from pydantic import Field

from stages.step import Settings

FEW = 10_000  # documents below which a classifier needs other settings
# Found by five-fold cross-validation on 281 web documents that people labelled (DCLM's study): area under ROC 0.936 with these,
# 0.656 with the defaults; 50 epochs with pairs of words give 0.936 too.
LITTLE = {"word_ngrams": 1, "dim": 16, "lr": 0.5, "epoch": 25}


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

    def for_documents(self, documents: int) -> TrainSettings:
        """These settings; for fewer than FEW documents LITTLE in place of those of LITTLE's kind, where none of them was set.

        DCLM's settings are for hundreds of thousands of documents: a few hundred they leave with one score for all.
        """
        if documents >= FEW or self.model_fields_set & {*LITTLE, "bucket"}:
            return self
        return self.model_copy(update=LITTLE)
