"""Products of attention and experts in float8 (`train.float8`), each row scaled by a power of two of its own.

Both products of the forward pass and of the gradient of the input take e4m3 operands; the gradient of a weight is worked
out in bf16, as torchao's recipe `rowwise_with_gw_hp` does, which also leaves an expert any number of rows. Router,
embedding, output matrix, norms and attention itself stay as they are. Weights are scaled anew in every micro-batch.

A GPU does the products by torch's own scaled kernels. On a CPU they are emulated: operands rounded to float8, sums in fp32.
Shapes: M rows, N outputs, K what is summed over, E experts, S rows of all experts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import TrainerError
from trainer.model import Linear
from trainer.moe import MoE, Routing, SwiGlu, grouped_experts

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448

Scaled = tuple[Tensor, Tensor]
"""Values in float8, and what each row (last dimension) is multiplied by, fp32, a power of two."""


def use(model: nn.Module, device: torch.device) -> None:
    """Let the products of attention and experts be float8's. Raises TrainerError where the device's are wrong or missing."""
    require(device)
    for module in model.modules():
        if isinstance(module, Linear | SwiGlu):
            module.product = linear
        elif isinstance(module, MoE):
            module.experts = experts


def require(device: torch.device) -> None:
    """Raise TrainerError if the device has no scaled products, or ones that give something else than the emulation."""
    if device.type != "cuda":
        return
    where = f"train.float8: {torch.cuda.get_device_name(device)}"
    chance = torch.Generator(device).manual_seed(0)
    rows, weight, weights = (
        torch.randn(shape, generator=chance, device=device).bfloat16() for shape in ((64, 32), (48, 32), (2, 48, 32))
    )
    ends = torch.tensor([17, 64], dtype=torch.int32, device=device)
    left = scaled(rows)
    try:
        found = [_product(left, scaled(weight)), _grouped_product(left, scaled(weights), ends)]
    except (RuntimeError, AttributeError, ValueError) as error:
        told = str(error).strip().split("\n")[0] or type(error).__name__
        raise TrainerError(f"{where} has no scaled float8 products ({told}); set train.float8=false") from None
    expected = [_emulated(left, scaled(weight)), _emulated_groups(left, scaled(weights), ends)]
    if not all(torch.allclose(a, b, rtol=0.02, atol=0.02) for a, b in zip(found, expected, strict=True)):
        raise TrainerError(f"{where}: its float8 products differ from the emulated ones; set train.float8=false")


def scaled(x: Tensor) -> Scaled:
    """Round to float8, each row (last dimension) divided by the smallest power of two that lets it fit."""
    largest = x.abs().amax(-1, keepdim=True).float()
    exponent = torch.ceil(torch.log2((largest / LARGEST).clamp(min=2.0**-100)))
    factor = torch.exp2(exponent)
    return (x.float() / factor).clamp(-LARGEST, LARGEST).to(E4M3), factor


def linear(x: Tensor, weight_NK: Tensor) -> Tensor:
    """x [..., K] times the weight transposed."""
    return _Linear.apply(x.flatten(0, -2), weight_NK).unflatten(0, x.shape[:-1])


def grouped(rows_SK: Tensor, weight_ENK: Tensor, ends_E: Tensor) -> Tensor:
    """Each expert's rows times its own weight transposed."""
    return _Grouped.apply(rows_SK, weight_ENK, ends_E)


def experts(x_ND: Tensor, routing: Routing, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """Weighted sum over each token's experts, as moe.apply_experts has it."""
    return grouped_experts(x_ND, routing, gate_up_EGD, down_EDF, grouped)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_MK, weight_NK)
        return _product(scaled(x_MK), scaled(weight_NK))

    @staticmethod
    def backward(ctx: Any, grad_MN: Tensor) -> tuple[Tensor, Tensor]:
        x_MK, weight_NK = ctx.saved_tensors
        return _product(scaled(grad_MN), scaled(weight_NK.t().contiguous())), grad_MN.t() @ x_MK


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_SK: Tensor, weight_ENK: Tensor, ends_E: Tensor) -> Tensor:
        ctx.save_for_backward(rows_SK, weight_ENK, ends_E)
        return _grouped_product(scaled(rows_SK), scaled(weight_ENK), ends_E)

    @staticmethod
    def backward(ctx: Any, grad_SN: Tensor) -> tuple[Tensor, Tensor, None]:
        rows_SK, weight_ENK, ends_E = ctx.saved_tensors
        grad_SN = grad_SN.contiguous()
        grad_rows = _grouped_product(scaled(grad_SN), scaled(weight_ENK.transpose(1, 2).contiguous()), ends_E)
        return grad_rows, F.grouped_mm(grad_SN.t(), rows_SK, offs=ends_E), None


def _product(left: Scaled, right: Scaled) -> Tensor:
    """[M, K] times [N, K] transposed, bf16."""
    if left[0].device.type == "cpu":
        return _emulated(left, right)
    by_row = F.ScalingType.RowWise
    (a_MK, a_M1), (b_NK, b_N1) = left, right
    return F.scaled_mm(a_MK, b_NK.t(), a_M1, by_row, b_N1.t(), by_row, output_dtype=torch.bfloat16, use_fast_accum=True)


def _grouped_product(left: Scaled, right: Scaled, ends_E: Tensor) -> Tensor:
    """[S, K] times [E, N, K] transposed, each expert's rows by its own, bf16."""
    if left[0].device.type == "cpu":
        return _emulated_groups(left, right, ends_E)
    (a_SK, a_S1), (b_ENK, b_EN1) = left, right
    # Not F.scaled_grouped_mm: torch 2.13 has no shapes for it, without which it can be neither compiled nor accounted.
    return torch._scaled_grouped_mm(
        a_SK,
        b_ENK.transpose(1, 2),
        a_S1.squeeze(-1),
        b_EN1.squeeze(-1),
        offs=ends_E,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _emulated(left: Scaled, right: Scaled) -> Tensor:
    return (_widened(left).float() @ _widened(right).float().t()).bfloat16()


def _emulated_groups(left: Scaled, right: Scaled, ends_E: Tensor) -> Tensor:
    return F.grouped_mm(_widened(left), _widened(right).transpose(1, 2), offs=ends_E)


def _widened(values: Scaled) -> Tensor:
    return (values[0].float() * values[1]).bfloat16()  # exact: four significant bits and a power of two
