"""One process or many: what `torchrun` started, and the few collective operations that training needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from trainer.config import Config
from trainer.errors import TrainerError


@dataclass(frozen=True)
class Processes:
    """This process's place among all of them."""

    rank: int
    count: int
    device: torch.device
    hosts: dist.ProcessGroup | None = None  # exchanges what hosts know, without waiting for their GPUs

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes the run's files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. All must ask; GPUs work on meanwhile."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.hosts)
        return bool(flags.item())

    def say(self, *values: object) -> None:
        """Print, once for all processes."""
        if self.first:
            print(*values)

    def use_device(self) -> None:
        """Let the calling thread work on this process's device."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            dist.destroy_process_group()


def start(device: str | None = None) -> Processes:
    """Join the group that torchrun describes in the environment; alone if there is none."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    hosts = None
    if count > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        hosts = dist.new_group(backend="gloo")
    return Processes(rank, count, place, hosts)


def spread(model: nn.Module, config: Config, processes: Processes) -> nn.Module:
    """Share the model among the processes: DDP copies it, FSDP2 splits every parameter. Call it before the weights
    are initialised or loaded. Returns the module to call in training."""
    if processes.count == 1:
        return model
    if config.batch_instances % processes.count:
        raise TrainerError(
            f"a batch of {config.batch_instances} instances does not divide among {processes.count} processes; "
            "change train.batch_tokens"
        )
    share, together = config.batch_instances // processes.count, config.losses.balance_instances
    if together and share % together:
        raise TrainerError(
            f"each of {processes.count} processes gets {share} instances of a batch, which are balanced {together} "
            f"together: set losses.balance_instances to a divisor of {share}, or change train.batch_tokens"
        )
    if config.train.parallel == "ddp":
        return model  # wrapped by `replicate` once the weights are in place
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    compute, mesh = getattr(torch, config.train.precision), _mesh(config, processes)
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    routers = set(replicated(model))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, ignored_params=routers)
    return fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=routers)


def replicated(model: nn.Module) -> list[nn.Parameter]:
    """The routers' weights, which FSDP leaves alone: they decide in fp32, are small, and a group of their own would break
    a compiled layer into several graphs."""
    return [parameter for name, parameter in model.named_parameters() if name.endswith("router.weight_ED")]


def _mesh(config: Config, processes: Processes) -> DeviceMesh:
    """All processes in a row; or copies of the model by the processes that hold one together (HSDP)."""
    together, count = config.train.shard_over or processes.count, processes.count
    if count % together:
        raise TrainerError(f"train.shard_over {together} does not divide {count} processes")
    kind = processes.device.type
    if together == count:
        return init_device_mesh(kind, (count,))
    return init_device_mesh(kind, (count // together, together), mesh_dim_names=("copy", "shard"))


def replicate(model: nn.Module, config: Config, processes: Processes) -> nn.Module:
    """Wrap the model in DDP where that is how the work is shared."""
    if processes.count == 1 or config.train.parallel != "ddp":
        return model
    from torch.nn.parallel import DistributedDataParallel

    devices = [processes.device.index] if processes.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False)


@contextlib.contextmanager
def gradients_shared(model: nn.Module, last: bool, each: bool = False) -> Iterator[None]:
    """Let processes exchange gradients only after the last micro-batch of a batch; under FSDP also after `each` one,
    which keeps a process's rows alone, and copies of the model (HSDP) exchange theirs after the last."""
    if hasattr(model, "no_sync") and not last:
        with model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last or each)
            model.set_requires_all_reduce(last)
        yield


def finish_gradients(model: nn.Module, config: Config, processes: Processes) -> None:
    """Average over processes the gradients that FSDP does not."""
    if processes.count == 1 or config.train.parallel != "fsdp":
        return
    gradients = [parameter.grad for parameter in replicated(model) if parameter.grad is not None]
    if gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        parts = processes.sum(flat).div_(processes.count).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
