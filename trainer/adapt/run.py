"""`trainer adapt`: fine-tuning of a checkpoint on pairs."""

from __future__ import annotations

from pathlib import Path

from trainer import checkpoint
from trainer.adapt.config import AdaptConfig
from trainer.adapt.objectives import OverAnswers, OverPreferences
from trainer.adapt.online import OnlineAnswers
from trainer.adapt.packed import require_kind
from trainer.adapt.pairs import Pairs
from trainer.adapt.reference import Reference, stored_log_probs
from trainer.adapt.source import PairSource, with_warmup
from trainer.config import stored_config
from trainer.errors import TrainerError
from trainer.inference import context_of
from trainer.objective import Objective
from trainer.processes import Processes
from trainer.resume import require_tokenizer
from trainer.train import Work, run


def adapt(
    config: AdaptConfig,
    start: Path,
    data_dir: Path,
    out: Path,
    resume: bool | Path = False,
    device: str | None = None,
) -> int:
    """Fine-tune the checkpoint at `start` on the pairs at `data_dir`. Returns the exit status, as `train` does.

    Raises TrainerError for everything that the user can mend.
    """

    def prepare(processes: Processes) -> Work:
        pairs = Pairs(data_dir)
        require_kind(pairs, config.adapt.method)
        begin = checkpoint.find(start)
        full = with_model(config, begin, pairs)
        state = checkpoint.read_state(begin)
        context = context_of(stored_config(state["config"], str(begin)), state["data"])
        source = PairSource(full, pairs, processes.device, context)
        full = with_warmup(full, source)
        return Work(full, source, _objective(full, source, processes, begin, out))

    return run(prepare, out, resume, device)


def with_model(config: AdaptConfig, begin: Path, pairs: Pairs) -> AdaptConfig:
    """The configuration with the checkpoint's model. Raises TrainerError where it names another, where tokenizers
    differ, or where the model is not causal."""
    state = checkpoint.read_state(begin)
    model = stored_config(state["config"], str(begin)).model
    if "model" in config.model_fields_set:
        raise TrainerError("the model is the checkpoint's: leave the section model out of the configuration")
    if config.start_from is not None:
        raise TrainerError("fine-tuning starts from the checkpoint that --from names: leave start_from out")
    if model.routing == "expert_choice":
        raise TrainerError(
            f"{begin}: with expert choice a token's route depends on the tokens after it; it cannot write answers"
        )
    if pairs.vocab_size != model.vocab_size:
        raise TrainerError(
            f"{pairs.folder}: its tokenizer has {pairs.vocab_size} entries, the model was trained with {model.vocab_size}: "
            "make the pairs with the checkpoint's tokenizer.json"
        )
    require_tokenizer(begin, state["data"], pairs.tokenizer_sha256)
    model = model.model_copy(update={"document_masking": True})
    return config.model_copy(update={"model": model, "start_from": str(begin)})


def _objective(config: AdaptConfig, source: PairSource, processes: Processes, begin: Path, out: Path) -> Objective:
    adapt, train = config.adapt, config.train
    if adapt.method in ("sft", "iqlearn"):
        return (OnlineAnswers if adapt.online else OverAnswers)(config, source, processes)
    reference = Reference(begin, processes, train.precision, train.loss_chunk_mib)
    if adapt.reference == "stored":
        source.reference = stored_log_probs(source, "train", reference, out, train.micro_batch)
        source.held_reference = stored_log_probs(source, "held_out", reference, out, train.micro_batch)
        reference.close()
    return OverPreferences(config, source, processes, reference)
