"""The sections of the trainer's configuration: every key with its meaning, type and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainer.errors import TrainerError
from trainer.units import COUNT, quantity


def _whole(value: Any) -> Any:
    """Take 5e12 and 5T for the integer that they are; leave everything else to the type check."""
    if isinstance(value, str) and value.strip()[-1:].upper() in COUNT:
        return quantity(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
CountOrZero = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """One block of the configuration: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RopeScaling(Section):
    """RoPE for a context longer than the one that a model was trained with (rope.py)."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: float = Field(ge=1.0, description="how much longer the context is")
    original_context: Count = Field(4096, description="llama3, yarn: tokens that the model was trained with")
    slow_turns: float = Field(1.0, gt=0, description="llama3, yarn: pairs that turn less in that context are slowed down")
    fast_turns: float = Field(32.0, gt=0, description="llama3, yarn: pairs that turn more are left as they are")
    whole_pairs: bool = Field(True, description="yarn: the blend begins and ends at whole pairs")
    temperature: float = Field(1.0, gt=0, description="multiplies queries and keys; yarn: 0.1 ln(factor) + 1")

    @model_validator(mode="after")
    def _consistent(self) -> RopeScaling:
        if self.slow_turns >= self.fast_turns:
            raise ValueError(f"slow_turns {self.slow_turns} must be less than fast_turns {self.fast_turns}")
        return self


class ModelConfig(Section):
    """The architecture. The defaults are those of OLMoE-1B-7B (arXiv 2409.02060, table 10)."""

    d_model: Count = 2048
    n_layers: Count = 16
    n_heads: Count = 16
    n_kv_heads: Count | None = Field(None, description="heads of keys and values, shared by groups of heads; none: n_heads")
    n_experts: CountOrZero = Field(64, description="routed experts of a layer; 0 makes the MLP dense")
    top_k: Count = Field(8, description="experts that a token is sent to (token choice), or receives on average")
    renormalize_top_k: bool = Field(False, description="token choice: a token's weights are divided by their sum")
    expert_width: Count = Field(1024, description="inner width of an expert, or of the dense MLP")
    n_shared_experts: CountOrZero = Field(0, description="experts that every token passes, beside the routed ones")
    routing: Literal["token_choice", "expert_choice"] = "token_choice"
    expert_capacity: float = Field(1.0, gt=0, description="expert choice: x tokens * top_k / n_experts")
    vocab_size: Count | None = Field(None, description="entries of the tokenizer; none takes it from the data")
    vocab_multiple: Count = Field(128, description="embedding rows are padded up to a multiple of this")
    norm: Literal["rms", "layer_nonparametric"] = "rms"
    norm_eps: float = Field(1e-5, gt=0)
    qk_norm: bool = True
    clip_qkv: float | None = Field(None, gt=0, description="queries, keys and values are cut off at this, before RoPE")
    rope_theta: float = Field(10_000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = Field(False, description="the output matrix is the embedding")
    init: Literal["truncated_normal", "normal"] = "truncated_normal"
    init_std: float = Field(0.02, gt=0)
    init_cut: float = Field(3.0, gt=0, description="truncated normal: cut at this many standard deviations")
    document_masking: bool = Field(False, description="a token attends only to tokens of its own document")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.d_model % (2 * self.n_heads):
            raise ValueError(f"d_model {self.d_model} must split into n_heads {self.n_heads} heads of even width")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads {self.n_kv_heads} must divide n_heads {self.n_heads}")
        if self.n_experts and self.top_k > self.n_experts:
            raise ValueError(f"top_k {self.top_k} is more than n_experts {self.n_experts}")
        if not self.n_experts and (self.n_shared_experts or self.routing != "token_choice"):
            raise ValueError("a dense model (n_experts 0) has neither shared experts nor a routing")
        return self

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.d_model // self.n_heads

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding and of the output matrix."""
        if self.vocab_size is None:
            raise TrainerError("model.vocab_size is not set, and there is no data to take it from")
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


class LossConfig(Section):
    """Weights of the losses beside cross-entropy."""

    load_balancing: float = Field(0.01, ge=0)
    router_z: float = Field(0.001, ge=0)
    router_z_form: Literal["equation", "original_code"] = Field(
        "equation", description="as the paper writes it, or divided by top_k as the code that trained OLMoE did"
    )
    balance_instances: CountOrZero = Field(
        0, description="instances whose routing is balanced together; 0: those of a micro-batch, as OLMoE did"
    )
    repeated_ngrams: CountOrZero = Field(
        32, description="an instance that repeats an n-gram (n <= 13) this many times in a row gives no loss; 0: off"
    )


class DataConfig(Section):
    """What is read, and in which order."""

    sequence_length: Count = 4096
    packing: Literal["concatenate", "best_fit"] = Field(
        "concatenate",
        description="how documents become instances: cut every sequence_length tokens, or packed whole where they fit",
    )
    seed: CountOrZero | None = Field(None, description="of the order; none: the mixture's own")


class OptimizerConfig(Section):
    """AdamW."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    decay_norms: bool = True
    decay_embeddings: bool = True
    clip: float = Field(1.0, gt=0, description="largest global norm of the gradient")


class ScheduleConfig(Section):
    """Learning rate over tokens: linear warm-up, then cosine to a floor, or linear to zero (annealing)."""

    kind: Literal["cosine", "linear_to_zero", "constant"] = "cosine"
    peak: float = Field(4e-4, gt=0)
    warmup_tokens: CountOrZero = 0
    warmup_from: Fraction = Field(0.0, description="where warm-up begins, as a part of the peak; OLMo's code: 0.1")
    tokens: Count | None = Field(None, description="where the decay ends; none: the end of training")
    floor: Fraction = Field(0.1, description="cosine: the last learning rate as a part of the peak")


class TrainConfig(Section):
    """How long and in which pieces."""

    seed: CountOrZero = Field(6198, description="of the weights")
    tokens: Count | None = Field(None, description="length of training; none: the mixture's budget")
    batch_tokens: Count = Field(4_194_304, description="tokens between two updates, over all processes")
    micro_batch: Count = Field(4, description="instances that go through the model at once, in one process")
    precision: Literal["float32", "bfloat16"] = "float32"
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="how several processes share the work")
    shard_over: Count | None = Field(
        None, description="fsdp: processes that hold one copy of the model together, such as those of a node; none: all"
    )
    reduce: Literal["micro_batch", "batch"] = Field(
        "micro_batch",
        description="fsdp: gradients are added up after each micro-batch, or once a batch, for which each process holds "
        "a whole fp32 gradient",
    )
    recompute: Literal["none", "activations", "layers"] = Field(
        "none", description="what the backward pass works out again to save memory: all but products and attention, or all"
    )
    float8: bool = Field(
        False,
        description="products of attention and experts in float8, scaled by rows, over bfloat16; a GPU without them is "
        "refused, a CPU emulates them",
    )
    loss_kernel: Literal["own", "liger", "fastest"] = Field(
        "own", description="whose kernels work out the cross-entropy: ours, a library's if it is installed, or the fastest here"
    )
    expert_kernel: Literal["own", "scattermoe", "sonicmoe", "fastest"] = Field(
        "own", description="whose kernels work out the experts, chosen alike; token choice only"
    )
    compile: bool = Field(False, description="torch.compile; it pays on a GPU")
    loss_chunk_mib: Count = Field(128, description="logits held at once, in MiB")
    log_every: Count = Field(1, description="steps between status lines")
    routing_every: Count = Field(10, description="steps between metrics lines with every expert's load")


class EvaluateConfig(Section):
    """What is looked at during training, at the start and at the end too."""

    every_tokens: Count | None = Field(None, description="held-out loss; none: at the start and the end only")
    instances: Count = Field(64, description="at most this many of each source")
    tasks: str | None = Field(None, description="a folder of tasks (config.json, requests.jsonl.gz), at any depth")
    tasks_every_tokens: Count | None = Field(None, description="none: with each evaluation of the held-out loss")
    task_documents: Count | None = Field(None, description="at most this many of each task; none: all")
    routing_tokens: CountOrZero = Field(
        8_192,
        description="held-out tokens whose experts are looked at with each evaluation, and compared with those at the last "
        "checkpoint that stays for good; 0: off",
    )


class CheckpointConfig(Section):
    """When the state is saved, and how many are kept."""

    every_tokens: Count | None = Field(None, description="none: at the end, and when told to stop")
    keep: Count = Field(2, description="the newest checkpoints that stay")
    keep_every_tokens: Count | None = Field(None, description="beside them, the first one past each multiple stays for good")
    copy_to: str | None = Field(None, description="s3://BUCKET/PREFIX: where every checkpoint is copied to as well")
    asynchronous: bool = Field(True, description="write in the background, from a copy in memory")
