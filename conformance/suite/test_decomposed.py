"""L7.6: an operation that has a public decomposition is lowered as its pieces, and refused where PyTorch refuses it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flexflash import TraceError, UnsupportedOperation, lower, trace
from flexflash.launch.host import HostLauncher
from plain import qkv

M, N = 3, 5
Q, K, V = qkv(1, 1, 1, M, N, 8)
F = torch.nn.functional
Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
INF, NAN = float("inf"), float("nan")
SPECIAL = torch.tensor([NAN, INF, -INF, -0.0, 2.5])
BASE = torch.tensor([0.0, 1.0, 0.25])
WHOLE = torch.tensor([-1, 0, 1, 3, 100], dtype=torch.int32)

EXACT: dict[str, Mod] = {
    "xlogy of zeros": lambda s, b, h, q, kv: torch.xlogy(BASE[q] * 0, SPECIAL[kv]),
    "xlogy of a number": lambda s, b, h, q, kv: torch.xlogy(SPECIAL[kv], 1.0),
    "logaddexp of infinities": lambda s, b, h, q, kv: torch.logaddexp(SPECIAL[kv], BASE[q] * -INF),
    "heaviside": lambda s, b, h, q, kv: torch.heaviside(SPECIAL[kv], BASE[q]),
    "signbit": lambda s, b, h, q, kv: torch.signbit(SPECIAL[kv]) * 1.0,
    "signbit of integers": lambda s, b, h, q, kv: torch.signbit(WHOLE[kv]) * 1.0,
    "signbit of bytes": lambda s, b, h, q, kv: torch.signbit(WHOLE[kv].to(torch.uint8)) * 1.0,
    "nan_to_num": lambda s, b, h, q, kv: torch.nan_to_num(SPECIAL[kv]),
    "nan_to_num of a half": lambda s, b, h, q, kv: torch.nan_to_num(SPECIAL[kv].half()).to(torch.float32),
    "nan_to_num of integers": lambda s, b, h, q, kv: torch.nan_to_num(WHOLE[kv], nan=3.0) * 1.0,
    "nan_to_num with values": lambda s, b, h, q, kv: torch.nan_to_num(SPECIAL[kv], 0.5, -INF, 7.0),
    "hardsigmoid": lambda s, b, h, q, kv: F.hardsigmoid(SPECIAL[kv] * 2),
    "hardswish": lambda s, b, h, q, kv: F.hardswish(SPECIAL[kv] + 1),
    "softshrink": lambda s, b, h, q, kv: F.softshrink(SPECIAL[kv], 0.25),
    "hardshrink": lambda s, b, h, q, kv: F.hardshrink(SPECIAL[kv] + BASE[q]),
    "threshold": lambda s, b, h, q, kv: F.threshold(SPECIAL[kv], 1.0, -7.0),
    "threshold between integers": lambda s, b, h, q, kv: F.threshold(WHOLE[kv], -0.5, 7.9) * 1.0,
    "addcmul of integers": lambda s, b, h, q, kv: torch.addcmul(WHOLE[kv], WHOLE[kv], WHOLE[q], value=3) * 1.0,
    "prelu": lambda s, b, h, q, kv: F.prelu(SPECIAL[kv], BASE[2]),
    "celu at zero": lambda s, b, h, q, kv: F.celu(SPECIAL[kv] * BASE[q], -2.0),
    "logit at the ends": lambda s, b, h, q, kv: torch.logit(BASE[q] * 0 + torch.where(kv > 2, 1.0, 0.0)),
    "sinc at zero": lambda s, b, h, q, kv: torch.sinc(SPECIAL[kv] * 0),
    "entropy": lambda s, b, h, q, kv: torch.special.entr(SPECIAL[kv] * BASE[q]),
}


@pytest.mark.clause("L7.6", "L6.5")
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", EXACT)
def test_a_decomposed_operation_has_pytorchs_special_values(name: str, width: int) -> None:
    mod = EXACT[name]
    q, kv = torch.arange(M, dtype=torch.int32).view(M, 1), torch.arange(N, dtype=torch.int32)
    expected = mod(torch.zeros(()), q * 0, q * 0, q, kv).float().expand(1, 1, M, N)
    seen = HostLauncher(width).evaluate(lower(Q, K, V, mod), torch.zeros(1, 1, M, N))
    torch.testing.assert_close(seen, expected, rtol=2**-22, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(seen)[expected == 0], torch.signbit(expected)[expected == 0])


@pytest.mark.clause("L7.6")
def test_the_graph_holds_the_pieces_and_the_users_line() -> None:
    graph = trace(lambda s, b, h, q, kv: torch.xlogy(s, SPECIAL[kv]), "score").graph_module.graph
    names = {str(n.target) for n in graph.nodes if n.op == "call_function"}
    assert "aten.log.default" in names and "aten.where.self" in names and "aten.xlogy.Tensor" not in names
    lines = {n.meta["where"][0] for n in graph.nodes if n.op == "call_function"}
    assert lines == {__file__}


REFUSED: dict[str, tuple[Mod, str]] = {
    "mish of integers": (lambda s, b, h, q, kv: s + F.mish(kv), "not implemented for 'Int'"),
    "logaddexp of integers": (lambda s, b, h, q, kv: s + torch.logaddexp(q, kv), "not implemented for 'Int'"),
    "addcdiv of integers": (lambda s, b, h, q, kv: s + torch.addcdiv(q, kv, kv), "Integer division with addcdiv"),
    "a number": (lambda s, b, h, q, kv: s + F.threshold(s.half(), 5.0, 65520.0), "without overflow"),
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_is_not_decomposed(name: str) -> None:
    mod, message = REFUSED[name]
    with pytest.raises(TraceError, match=rf"aten\.\w+\.\w+: .*{message}.*test_decomposed\.py:\d+"):
        trace(mod, "score")


UNWRITABLE: dict[str, tuple[Mod, str]] = {
    "a piece": (lambda s, b, h, q, kv: torch.special.log_ndtr(s), r"special_log_ndtr.* \(its part aten.special_erfcx"),
    "no decomposition": (lambda s, b, h, q, kv: torch.lgamma(s), r"aten\.lgamma"),
    "no pointwise operation": (lambda s, b, h, q, kv: torch.sum(s), r"aten\.sum"),
    "abs of a bool": (lambda s, b, h, q, kv: s + torch.abs(q > kv), "not implemented for 'Bool'"),
}


@pytest.mark.clause("L7.7")
@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_has_no_spelling_is_refused_by_its_own_name(name: str) -> None:
    mod, message = UNWRITABLE[name]
    with pytest.raises(UnsupportedOperation, match=rf"{message}.*test_decomposed\.py:\d+"):
        lower(Q, K, V, mod)
