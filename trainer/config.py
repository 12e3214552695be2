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
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from trainer.errors import TrainerError
from trainer.sections import (
    CheckpointConfig,
    Count,
    CountOrZero,
    DataConfig,
    EvaluateConfig,
    Fraction,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RopeScaling,
    ScheduleConfig,
    Section,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "Config",
    "Count",
    "CountOrZero",
    "DataConfig",
    "EvaluateConfig",
    "Fraction",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RopeScaling",
    "ScheduleConfig",
    "Section",
    "TrainConfig",
    "check",
    "find",
    "keys",
    "load",
    "plain",
    "shipped",
]


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
        self._require_kernels()
        return self

    def _require_kernels(self) -> None:
        model, train = self.model, self.train
        if train.float8:
            if train.precision != "bfloat16":
                raise ValueError(f"train.float8 needs train.precision bfloat16, not {train.precision}")
            if train.expert_kernel != "own":
                raise ValueError(f"train.float8 needs train.expert_kernel own, not {train.expert_kernel}")
            widths = {"d_model": model.d_model, "expert_width": model.expert_width}
            for name, width in widths.items():
                if width % 16:
                    raise ValueError(f"train.float8 needs model.{name} to be a multiple of 16, not {width}")
        if train.expert_kernel != "own" and (not model.n_experts or model.routing != "token_choice"):
            raise ValueError(f"train.expert_kernel {train.expert_kernel} needs experts that tokens choose (token_choice)")

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
            raise TrainerError(f"--set {setting}: unknown key {name}; did you mean {_nearest(name, schema)}?")
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


def stored_config(values: dict[str, Any], where: str) -> Config:
    """The configuration that a checkpoint holds: of a pretraining, or of a fine-tuning (adapt/config.py)."""
    if "adapt" in values:
        from trainer.adapt.config import AdaptConfig

        return check(values, where, AdaptConfig)
    return check(values, where)


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


_CAUSES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}


def _explain(error: Any, schema: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{path} = {error['input']!r}: unknown key; did you mean {_nearest(path, schema)}?"
    if error["type"] == "model_type":
        return f"{path} = {error['input']!r}: is a section, with keys of its own below it"
    if error["type"] == "missing":
        return f"{path}: this key is needed"
    if error["type"] == "value_error":
        return f"{path + ': ' if path else ''}{error['ctx']['error']}"
    cause = _CAUSES.get(error["type"], error["msg"][0].lower() + error["msg"][1:])
    return f"{path} = {error['input']!r}: {cause.format(**error.get('ctx', {}))}"


def _nearest(path: str, schema: type[BaseModel]) -> str:
    section, _, name = path.rpartition(".")
    valid = list(keys(schema))
    beside = [key for key in valid if key.rpartition(".")[0] == section]
    sections = {key.rpartition(".")[0] for key in valid} - {""}
    meant = [f"{near}.{name}" for near in difflib.get_close_matches(section, list(sections), 3)]
    by_name = {key.rpartition(".")[2]: key for key in reversed(valid)}
    for found in (
        [key for key in meant if key in valid],
        [by_name[name]] if name in by_name else [],
        difflib.get_close_matches(path, beside, 1, 0.75),
        [by_name[near] for near in difflib.get_close_matches(name, list(by_name), 1, 0.75)],
        difflib.get_close_matches(path, valid, 1, 0.0),
    ):
        if found:
            return found[0]
    raise AssertionError("the configuration has no keys")
