"""What is trained on the run's own documents: quality classifiers before the steps that apply them, and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline import storage
from pipeline.jobs import classifier, tokenizer
from pipeline.jobs.classifier import Drawn, TrainClassifier
from pipeline.jobs.inputs import PartInput
from pipeline.jobs.sample import Sample, SampleReport
from pipeline.jobs.tokenizer import CopyTokenizer, TrainTokenizer
from pipeline.ledger import Ref
from pipeline.plan.graph import Plan
from pipeline.plan.node import Done, Named, Node, Stage, Stored
from pipeline.plan.parts import Part, Segment
from pipeline.recipe.recipe import Recipe
from stages.errors import UserError
from stages.quality.classifier import Quality
from stages.tokens.manifest import TOKENIZER_PATH

AT_ONCE = 16  # the task that trains draws its sample itself from up to so many times what it asked for


def draw(
    parts: Sequence[Part], max_bytes: int, purpose: str, sources: tuple[str, ...], of: Ref, batch_bytes: int
) -> Plan[Drawn]:
    """Up to `max_bytes` of the parts' documents, chosen by a hash of their ids, evenly over all of them.

    The task that trains takes its sample from the parts itself, or from samples made by tasks of their own where the parts
    are far more than is asked for: no task may read a whole corpus. The same documents in the same order in both cases.
    """
    share = min(1.0, max_bytes / max(sum(part.bytes for part in parts), 1))
    inputs = tuple(part.read() for part in parts)
    if share * AT_ONCE < 1:
        nodes = [
            Node(Ref("sample", of.source, f"{of.kind} {of.stage}", number), Sample(one, share, purpose, batch_bytes), part.bytes)
            for number, (one, part) in enumerate(zip(inputs, parts, strict=True))
        ]
        done: list[Done[SampleReport]] = yield Stage(f"sample for the {purpose}", nodes)
        inputs = tuple(PartInput(one.output(one.report.part)) for one in done)
    return Drawn(inputs, share, sources)


def trained_models(
    recipe: Recipe, run: str, source: str, segment: Segment, parts: Mapping[str, list[Part]]
) -> Plan[tuple[Segment, dict[str, Named]]]:
    """The segment with each `quality` step that is to be trained pointing to its model, and the models by URI."""
    steps, models = [], {}
    for name, step in segment.steps:
        if isinstance(step, Quality) and step.train is not None:
            model = yield from _classifier(recipe, source, name, step, parts)
            uri = storage.join(run, model.path)
            labels = {"positive": step.train.settings.positive, "negative": step.train.settings.negative}
            step = step.model_copy(update={"model": uri, "train": None, **labels})
            models[uri] = Named(uri, model.digest)
        steps.append((name, step))
    return Segment(steps, segment.dedup), models


def _classifier(
    recipe: Recipe, source: str, name: str, step: Quality, parts: Mapping[str, list[Part]]
) -> Plan[Stored]:
    assert step.train is not None
    ref = Ref("classifier", source, name, 0)
    drawn, size = {}, 0
    for kind, sources in (("positive", step.train.positive), ("negative", step.train.negative)):
        for other in sources:
            if not parts[other]:
                raise UserError(
                    f"sources.{source}.{name}.train needs the documents of {other} before the step: put a dedup before the "
                    "quality step"
                )
        mine = [part for other in sources for part in parts[other]]
        size += min(step.train.max_bytes, sum(part.bytes for part in mine))
        drawn[kind] = yield from draw(
            mine, step.train.max_bytes, classifier.PURPOSE, tuple(sources), ref, recipe.run.batch_bytes
        )
    output = tuple(f"models/{source}.{name}.bin{suffix}" for suffix in classifier.SUFFIXES)
    job = TrainClassifier(drawn["positive"], drawn["negative"], step.train.settings, output, recipe.run.batch_bytes)
    done: list[Done] = yield Stage(f"train {source}.{name}", [Node(ref, job, size)])
    return done[0].output(output[0])


def run_tokenizer(recipe: Recipe, parts: Mapping[str, list[Part]], named: Mapping[str, Named]) -> Plan[Stored]:
    """Train or fetch the tokenizer into the run's folder."""
    wanted = recipe.tokenizer
    if wanted.train is None:
        return (yield from copied_tokenizer(named[wanted.uri()]))
    chosen = [part for source in parts.values() for part in source]
    ref = Ref("tokenizer", "", "train", 0)
    drawn = yield from draw(
        chosen, wanted.train.max_bytes, tokenizer.PURPOSE, tuple(parts), ref, recipe.run.batch_bytes
    )
    job = TrainTokenizer(drawn, wanted.train.vocab_size, wanted.train.max_bytes, TOKENIZER_PATH, recipe.run.batch_bytes)
    size = int(drawn.share * sum(part.bytes for part in chosen))
    done: list[Done] = yield Stage("tokenizer", [Node(ref, job, size)])
    return done[0].output(TOKENIZER_PATH)


def copied_tokenizer(file: Named) -> Plan[Stored]:
    """Bring a tokenizer that is there already into the folder."""
    node = Node(Ref("tokenizer", "", "copy", 0), CopyTokenizer(file, TOKENIZER_PATH))
    done: list[Done] = yield Stage("tokenizer", [node])
    return done[0].output(TOKENIZER_PATH)
