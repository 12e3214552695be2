"""Kernels of other libraries in place of ours. Stand-ins with the libraries' interfaces say what becomes of one that is
right, of one that is wrong, and of one that is not there; the libraries themselves need a GPU."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from trainer import kernels, metrics
from trainer.errors import TrainerError
from trainer.losses import softmax_in_place, softmax_to_compile
from trainer.train import train

WRONG: dict[str, float] = {}
CALLED: list[str] = []


def liger_fused_linear_cross_entropy(hidden, head, targets, *, ignore_index, reduction, accum_dtype):
    CALLED.append("liger")
    assert reduction == "sum" and accum_dtype == torch.float32
    logits = hidden.float() @ (head.float() * WRONG.get("liger", 1.0)).t()
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")


def parallel_linear(x, weight_EKN, k, expert_S, order_S, ends_E, *, grouped_in=False, grouped_out=False):
    CALLED.append("scattermoe")
    assert torch.equal(expert_S, torch.searchsorted(ends_E, torch.arange(len(order_S)), right=True))
    rows = x if grouped_in else x[order_S // k]
    parts = zip(rows.tensor_split(ends_E[:-1].tolist()), weight_EKN, strict=True)
    out = torch.cat([part @ weight for part, weight in parts]) * WRONG.get("scattermoe", 1.0)
    return out if grouped_out else torch.empty_like(out).index_copy(0, order_S, out)


def moe_general_routing_inputs(
    x, scores, token, expert, gate_up_GDE, b1, down_DFE, b2, *, activation_type, concat_layout, **others
):
    assert others.keys() == {"E", "stream_id", "is_inference_mode_enabled"}
    CALLED.append("sonicmoe")
    assert concat_layout and activation_type == "swiglu" and torch.equal(token, token.sort().values)
    gate, up = torch.einsum("sd,gds->sg", x[token], gate_up_GDE[..., expert]).chunk(2, 1)
    out = torch.einsum("sf,dfs->sd", F.silu(gate) * up, down_DFE[..., expert]) * scores[:, None]
    return torch.zeros_like(x).index_add(0, token, out), None


def module(name: str, **values) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(values)
    return made


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins of all three."""
    made = {
        "liger_kernel": {},
        "liger_kernel.transformers": {},
        "liger_kernel.transformers.functional": {"liger_fused_linear_cross_entropy": liger_fused_linear_cross_entropy},
        "scattermoe": {"parallel_linear": parallel_linear},
        "sonicmoe": {},
        "sonicmoe.functional": {"moe_general_routing_inputs": moe_general_routing_inputs},
        "sonicmoe.enums": {"ActivationType": types.SimpleNamespace(SWIGLU="swiglu")},
    }
    for name, values in made.items():
        monkeypatch.setitem(sys.modules, name, module(name, **values))
    WRONG.clear()
    CALLED.clear()
    torch.use_deterministic_algorithms(False)


def losses(tmp_path, small_run, make_config, name: str, **changes) -> list[float]:
    config = make_config(train={"tokens": 4 * 128, **changes})
    assert train(config, small_run, tmp_path / name, device="cpu") == 0
    return [line["loss"] for line in metrics.read(tmp_path / name / "metrics.jsonl") if line["kind"] == "step"]


@pytest.mark.parametrize("key", ["loss_kernel liger", "expert_kernel scattermoe", "expert_kernel sonicmoe"])
def test_a_library_that_agrees_trains_as_ours_does(tmp_path, small_run, make_config, libraries, capsys, key):
    name, chosen = key.split()
    expected = losses(tmp_path, small_run, make_config, "own")
    assert f"train.{name}" not in capsys.readouterr().out
    found = losses(tmp_path, small_run, make_config, "theirs", **{name: chosen})
    assert f"train.{name}: {chosen}\n" in capsys.readouterr().out
    assert found == pytest.approx(expected, rel=1e-4)
    assert set(CALLED) == {chosen} and len(CALLED) > 4 * 2  # it was tried, and then taken in each micro-batch


@pytest.mark.parametrize("key", ["loss_kernel liger", "expert_kernel scattermoe"])
def test_one_that_differs_is_refused(tmp_path, small_run, make_config, libraries, key):
    name, chosen = key.split()
    WRONG[chosen] = 1.01
    with pytest.raises(TrainerError, match=f"train.{name} {chosen}: its value is not ours here .off by .*leave it out"):
        losses(tmp_path, small_run, make_config, "theirs", **{name: chosen})


def test_a_gradient_that_differs_is_refused():
    ours = [torch.ones(()), torch.ones(3)]
    kernels._require_equal([torch.ones(()), torch.full((3,), 1 + 1e-5)], ours)
    for theirs in (torch.full((3,), 1.01), torch.full((3,), torch.nan), torch.ones(3).double(), torch.ones(1)):
        with pytest.raises(ValueError, match="its gradient is not ours"):
            kernels._require_equal([torch.ones(()), theirs], ours)


@pytest.mark.parametrize(
    ("key", "module", "advice"),
    [
        ("loss_kernel liger", "liger_kernel", "pip install liger-kernel"),
        ("expert_kernel scattermoe", "scattermoe", "pip install git"),
        ("expert_kernel sonicmoe", "sonicmoe", "pip install git"),
    ],
)
def test_one_that_is_not_there_is_refused(tmp_path, small_run, make_config, monkeypatch, key, module, advice):
    monkeypatch.setitem(sys.modules, module, None)
    name, chosen = key.split()
    told = f"train.{name} {chosen}: it cannot be imported .*{module}.*; {advice}.*; leave it out, or set another"
    with pytest.raises(TrainerError, match=told):
        losses(tmp_path, small_run, make_config, "theirs", **{name: chosen})


def test_an_older_sonicmoe_is_refused(tmp_path, small_run, make_config, libraries, monkeypatch):
    monkeypatch.setattr(sys.modules["sonicmoe.functional"], "moe_general_routing_inputs", lambda x, scores: None)
    with pytest.raises(TrainerError, match="sonicmoe: this version takes the rows of gate and up in turns"):
        losses(tmp_path, small_run, make_config, "theirs", expert_kernel="sonicmoe")


def test_the_fastest_of_those_that_agree_is_taken(tmp_path, small_run, make_config, libraries, monkeypatch, capsys):
    times = iter([3.0, 2.0, 0.5, 1.0])  # loss: ours, liger; experts: ours, sonicmoe
    monkeypatch.setattr(kernels, "_seconds", lambda *_: next(times))
    WRONG["scattermoe"] = 1.01
    losses(tmp_path, small_run, make_config, "fastest", loss_kernel="fastest", expert_kernel="fastest")
    told = capsys.readouterr().out
    assert "train.loss_kernel: liger\n" in told and "train.expert_kernel: own\n" in told
    assert next(times, None) is None


def test_experts_of_a_library_need_tokens_that_choose(make_config):
    for changes in ({"routing": "expert_choice"}, {"n_experts": 0}):
        with pytest.raises(TrainerError, match="expert_kernel fastest needs experts that tokens choose"):
            make_config(model=changes, train={"expert_kernel": "fastest"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_softmax_to_compile_is_the_other(dtype):
    logits = (torch.randn(7, 300) * 30).to(dtype)
    ours, theirs = logits.clone(), logits.clone()
    compiled = torch.compile(softmax_to_compile, backend="aot_eager")
    torch.testing.assert_close(compiled(theirs), softmax_in_place(ours), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs, ours, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)
