"""L7.8: short vectors and reductions that are unrolled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexconf.language import modtext
from flexconf.oracles.evaluation import evaluate
from flexflash import TraceError, UnsupportedOperation, lower
from flexflash.launch.host import HostLauncher
from flexflash.unroll import LONGEST
from plain import qkv

REDUCTIONS = ("sum", "mean", "prod", "any", "all", "amax", "amin")
B, H, M, N = 2, 2, 5, 9
INDEXED = {1: "t", 2: "t[kv]", 3: "t[h, q]", 4: "t[b, h, kv]"}
SIZES: dict[int, tuple[int, ...]] = {1: (), 2: (N,), 3: (H, M), 4: (B, H, N)}


def _compared(text: str, captures: dict[str, Tensor], width: int) -> int:
    """The number of scores that lie within their bound. Asserts that all of them do."""
    mod = modtext.compile_mod(text, "score", captures, {})
    generator = torch.Generator().manual_seed(7)
    scores = torch.randn(B, H, M, N, generator=generator)
    q, k, v = qkv(B, H, H, M, N)
    seen = HostLauncher(width).evaluate(lower(q, k, v, mod), scores.clone()).double()
    expected = evaluate(mod, "score", (scores.double(), None), B, H, M, N)
    difference = torch.where(seen == expected.value, 0.0, (seen - expected.value).abs())
    assert bool((difference <= expected.error).all()), (text, float((difference - expected.error).max()))
    assert float(expected.error.max()) < 0.1 * float(expected.value.abs().max()), "the bound says something"
    return seen.numel()


def _values(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
    return drawn > 0 if dtype == torch.bool else drawn.to(dtype) if dtype.is_floating_point else (drawn * 4).to(dtype)


@pytest.mark.clause("L7.8")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("rank", INDEXED)
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_every_reduction_of_every_rank_at_every_width(kind: str, rank: int, width: int) -> None:
    inner = f"{INDEXED[rank]} > 0" if kind in ("any", "all") else INDEXED[rank]
    compared = 0
    for length in (1, 3, LONGEST):
        t = _values(torch.float32, (*SIZES[rank], length))
        compared += _compared(f"score + ({inner}).{kind}(-1)", {"t": t}, width)
    assert compared == 3 * B * H * M * N


@pytest.mark.clause("L7.8")
@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in modtext.DTYPES])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_every_reduction_of_every_dtype(kind: str, dtype: torch.dtype) -> None:
    if kind == "mean" and not dtype.is_floating_point:
        pytest.skip("PyTorch has no mean of integers and bools")
    text = f"score + torch.{kind}(t[kv], -1).to(torch.float32)"
    assert _compared(text, {"t": _values(dtype, (N, 5))}, 2) == B * H * M * N


@pytest.mark.clause("L7.8")
@pytest.mark.parametrize(
    "text",
    [
        "score - (t[q] - t[kv]).pow(2).sum(-1)",
        "score + (t[q] * w).sum(-1)",
        "score + (score * w).mean(-1)",
        "score + torch.where(t[q] < t[kv], w, -0.5).amax(-1)",
        "score + (t[q].unsqueeze(-1) * w[1]).sum(-1).amin(-1)",
        "score + (half[q] * score).sum(-1)",
        "score + (half[q] + t[kv]).prod(-1)",
        "score + (w * 2)[1] - (t[kv] * w)[-1]",
        "score + w[near[q]].sum(-1) + w[near[kv] - 2].amax(-1)",
        "score + u[kv].sum(-1).amax(-1) - u[q].amin(0).sum(0)",
        "score + torch.sum(t[kv].to(torch.float64), dim=-1)",
        "score + (~(t[kv] > 0)).all(-1) + (near[kv] // 2 % 2).sum(-1)",
    ],
)
def test_vectors_beside_vectors_and_scalars(text: str) -> None:
    captures = {
        "t": _values(torch.float32, (N, 3)),
        "half": _values(torch.float16, (N, 3)),
        "w": _values(torch.float32, (3,)),
        "u": _values(torch.float32, (N, 2, 3)),
        "near": torch.randint(-1, 3, (N, 3), generator=torch.Generator().manual_seed(1), dtype=torch.int32),
    }
    for width in (1, 4):
        assert _compared(text, captures, width) == B * H * M * N


def _refusal(mod: Callable[..., Tensor], error: type[Exception] = UnsupportedOperation) -> str:
    with pytest.raises(error) as caught:
        lower(*qkv(1, 1, 1, 4, 4), mod)
    return str(caught.value)


@pytest.mark.clause("L7.8")
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_nine_elements_are_refused_by_name(kind: str) -> None:
    nine = torch.ones(4, LONGEST + 1)
    said = _refusal(lambda score, b, h, q, kv: score + getattr(nine[q], kind)(-1))
    assert said.startswith(f"aten.{kind}.") and "reduces 9 elements; a mod reduces 1 to 8 (L7.8) (at " in said
    said = _refusal(lambda score, b, h, q, kv: score + getattr(nine[q] * nine[kv], kind)(-1))
    assert said.startswith("aten.mul.Tensor in the score_mod gives a tensor of shape [9]; ")


@pytest.mark.clause("L7.8")
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_whole_tensor_is_refused_by_name(kind: str) -> None:
    """Also one that is short enough, since production computes it outside the kernel."""
    for table in (torch.ones(4, 50), torch.ones(4)):
        said = _refusal(lambda score, b, h, q, kv, t=table: score + getattr(t, kind)())
        assert said.startswith(f"aten.{kind}.default in the score_mod reduces a whole tensor"), said


@pytest.mark.clause("L7.7", "L7.8")
@pytest.mark.parametrize(
    ("mod", "says"),
    [
        (lambda t, s, q, kv: torch.softmax(t[q], -1)[0], "aten._softmax.default in the score_mod has no CuTe spelling"),
        (lambda t, s, q, kv: torch.cumsum(t[q], -1)[0], "aten.cumsum.default in the score_mod has no CuTe spelling"),
        (lambda t, s, q, kv: t[q].norm(dim=-1), "linalg_vector_norm"),
        (lambda t, s, q, kv: (t[q] * 2)[kv], "indexes a computed vector at a place that is not constant"),
        (lambda t, s, q, kv: t[q].sum(-1, keepdim=True).sum(), "reduces a whole tensor"),
    ],
)
def test_other_operations_on_vectors_are_refused_by_name(mod: Callable[..., Tensor], says: str) -> None:
    t = torch.ones(4, 4)
    assert says in _refusal(lambda score, b, h, q, kv: score + mod(t, score, q, kv))


@pytest.mark.clause("L7.8")
def test_a_vector_is_no_result() -> None:
    t = torch.ones(4, 3)
    assert "not one scalar" in _refusal(lambda score, b, h, q, kv: score + t[q], TraceError)


@pytest.mark.clause("L7.8")
def test_an_element_is_read_once_and_reduced_from_the_first_to_the_last() -> None:
    t = torch.ones(4, 3)
    text = lower(*qkv(1, 1, 1, 4, 4), lambda score, b, h, q, kv: score + t[q].sum(-1) * t[q].amax(-1)).text
    assert [text.count(f"t[q_idx[0], {n}]") for n in range(3)] == [1, 1, 1]
    assert text.index("t_value + t_value_1") < text.index("add + t_value_2")


@pytest.mark.clause("L6.2", "L7.8")
def test_a_mod_without_vectors_is_the_graph_that_was_traced() -> None:
    from flexflash.trace import trace
    from flexflash.unroll import unrolled

    t = torch.ones(4, 3)
    graph = trace(lambda score, b, h, q, kv: score + t[q][h], "score")
    assert unrolled(graph) is graph
