"""The trainer's configuration: typed, checked at load, and written into every checkpoint.

A file may start from another one (`base: path`, relative to the file) and say only what differs; `--set a.b=c`
changes single values. Unknown keys, wrong types and impossible values are refused with the key's path, the value and
the nearest valid name. All lengths of training are in tokens.
"""

from __future__ import annotations

import difflib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

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
    seed: Annotated[int, Field(ge=0)] | None = Field(None, description="of the order; none: the mixture's own")


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

    seed: int = Field(6198, ge=0, description="of the weights")
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
    compile: bool = Field(False, description="torch.compile; it pays on a GPU")
    loss_chunk_mib: Count = Field(128, description="logits held at once, in MiB")
    log_every: Count = Field(1, description="steps between status lines")
    routing_every: Count = Field(10, description="steps between metrics lines with every expert's load")


class EvaluateConfig(Section):
    """Held-out loss during training."""

    every_tokens: Count | None = Field(None, description="none: at the start and the end only")
    instances: Count = Field(64, description="at most this many of each source")


class CheckpointConfig(Section):
    """When the state is saved, and how many are kept."""

    every_tokens: Count | None = Field(None, description="none: at the end, and when told to stop")
    keep: Count = Field(2, description="the newest checkpoints that stay")
    keep_every_tokens: Count | None = Field(None, description="beside them, the first one past each multiple stays for good")
    copy_to: str | None = Field(None, description="s3://BUCKET/PREFIX: where every checkpoint is copied to as well")
    asynchronous: bool = Field(True, description="write in the background, from a copy in memory")


class Config(Section):
    """Everything that a training run depends on, but for the data."""

    name: str
    model: ModelConfig = ModelConfig()
    losses: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    start_from: str | None = Field(
        None, description="a checkpoint whose weights and optimizer state training starts from, at token 0 (annealing)"
    )
    start_optimizer: Literal["keep", "reset"] = Field(
        "keep", description="start_from: go on with the checkpoint's optimizer state, or with a new one"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        length, batch, group = self.data.sequence_length, self.train.batch_tokens, self.losses.balance_instances
        if batch % length:
            raise ValueError(f"train.batch_tokens {batch} is no multiple of data.sequence_length {length}")
        if group and (self.train.micro_batch % group or (batch // length) % group):
            raise ValueError(
                f"losses.balance_instances {group} must divide train.micro_batch {self.train.micro_batch} and the "
                f"{batch // length} instances of a batch"
            )
        return self

    @property
    def batch_instances(self) -> int:
        """Instances between two updates, over all processes."""
        return self.train.batch_tokens // self.data.sequence_length


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 4e-4 and 5e12 are numbers, as in YAML 1.2, and a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: Path, settings: Sequence[str] = (), schema: type[C] = Config) -> C:
    """Read a configuration file and apply `a.b=c` settings. Raises TrainerError naming every wrong key."""
    path = find(path)
    values = _read(path, ())
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise TrainerError(f"--set {setting}: write it as name.of.key=value")
        if name not in keys(schema):
            above = name.rpartition(".")[0]
            if above in keys(schema) and not any(key.startswith(f"{above}.") for key in keys(schema)):
                raise TrainerError(f"--set {setting}: {above} is a value, not a section")
            raise TrainerError(f"--set {setting}: unknown key {name}; the nearest valid name is {_nearest(name, schema)}")
        _put(values, name.split("."), _parse(text, f"--set {setting}"), setting)
    return check(values, str(path), schema)


def find(path: Path) -> Path:
    """The file that is meant: this one; or the shipped one of this name (olmoe_tiny, configs/trainer/olmoe_tiny.yaml),
    from wherever the command is run. Raises TrainerError, with the nearest name, if there is none."""
    if path.exists() or path.is_absolute():
        return path
    names: dict[str, Path] = {}
    for folder in shipped():
        for file in sorted(folder.rglob("*.yaml")):
            inner = file.relative_to(folder)
            for name in (inner.with_suffix(""), inner, Path("configs", "trainer", inner)):
                names.setdefault(str(name), file)
    if str(path) in names:
        return names[str(path)]
    near = difflib.get_close_matches(str(path), list(names), 1)
    raise TrainerError(f"{path}: cannot be read (No such file or directory){f'; did you mean {near[0]}?' if near else ''}")


def shipped() -> list[Path]:
    """Where the project's own configurations may lie: beside the code, and where an installation puts them."""
    places = [Path(__file__).parents[1], Path(sysconfig.get_path("data")) / "share" / "headrace"]
    return [folder for place in places if (folder := place / "configs" / "trainer").is_dir()]


def check(values: dict[str, Any], where: str, schema: type[C] = Config) -> C:
    """Turn plain values into a Config; `where` names their origin in the error."""
    try:
        return schema.model_validate(_lists_to_tuples(values))
    except ValidationError as error:
        raise TrainerError(f"{where}: " + "; ".join(_explain(one, schema) for one in error.errors())) from None


def plain(config: BaseModel) -> dict[str, Any]:
    """The values as JSON-ready types."""
    return config.model_dump(mode="json")


def keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every valid key, as a dotted path."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for kind in get_args(field.annotation) or (field.annotation,):  # a section, or a section or none
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{name}.")


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise TrainerError(f"{path}: its bases lead back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainerError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise TrainerError(f"{path}: expected keys and values, found {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise TrainerError(f"{path}: base must be the path of a configuration, found {base!r}")
    return _merge(_read(path.parent / base, (*seen, path)), values)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise TrainerError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _put(values: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise TrainerError(f"--set {setting}: {name} is a value, not a section")
    values[path[-1]] = value


def _lists_to_tuples(value: Any) -> Any:
    """YAML and JSON have lists only; strict validation wants the tuples."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value


def _explain(error: Any, schema: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {path} (value {error['input']!r}); the nearest valid name is {_nearest(path, schema)}"
    if error["type"] == "model_type":
        return f"{path} = {error['input']!r}: is a section, with keys of its own below it"
    if error["type"] == "missing":
        return f"{path} is required"
    if error["type"] == "value_error":
        return f"{path + ': ' if path else ''}{error['ctx']['error']}"
    return f"{path} = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _nearest(path: str, schema: type[BaseModel]) -> str:
    section, _, name = path.rpartition(".")
    valid = list(keys(schema))
    beside = [key for key in valid if key.rpartition(".")[0] == section]
    by_name = {key.rpartition(".")[2]: key for key in reversed(valid)}
    for found in (
        [by_name[name]] if name in by_name else [],
        difflib.get_close_matches(path, beside, 1, 0.75),
        [by_name[near] for near in difflib.get_close_matches(name, list(by_name), 1, 0.75)],
        difflib.get_close_matches(path, valid, 1, 0.0),
    ):
        if found:
            return found[0]
    raise AssertionError("the configuration has no keys")
