"""The benchmark of one GPU, tried on the CPU at a size that shows nothing but that it works."""

from __future__ import annotations

import argparse

import pytest
import torch

from benchmarks import gpu


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<GroupProblemShape", "grouped products"),
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NTT", "other products"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "AdamW"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("triton_red_fused__to_copy_mul_rms_norm_3", "compiled (norms, RoPE, SwiGLU, dispatch)"),
        ("void at::native::radixSortKVInPlace<long>", "sorting and routing"),
        ("void something_else()", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel, kind):
    assert gpu.kind_of(kernel) == kind


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what it does without a GPU")
def test_without_a_gpu_it_says_so(capsys):
    gpu.main([])
    assert capsys.readouterr().out == "no GPU here: nothing to measure; --size tiny tries the benchmark on the CPU\n"


def test_a_case_goes_through_the_training_loop(capsys):
    options = argparse.Namespace(size="tiny", length=16, steps=1, compile=False)
    rate = gpu._measured(gpu.Case("one", 1, 2, 4, "activations"), options, torch.device("cpu"))
    told = capsys.readouterr().out
    assert rate > 0 and told.startswith("one, recompute activations: ") and "tokens/s" in told and "worked out" in told


def test_what_is_made_can_be_learned_and_is_the_same_each_time():
    options = argparse.Namespace(size="tiny", length=16, steps=1, compile=False)
    config = gpu._config(gpu.Case("one", 1, 2, 4), options)
    first, again = (gpu.Rule(config, 8).read(4, 4, 3) for _ in range(2))
    assert [part.instances for part in first] == [3, 1]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    tokens = torch.cat([part.tokens for part in first])
    ruled = (tokens[:, 1:] == (tokens[:, :-1] * 7 + 3) % 256).float().mean()
    assert 0.7 < ruled < 1.0
