"""L4: may the flash backend be used?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from packaging.version import Version
from torch.fx import Graph, GraphModule

from flexflash import eligibility, lower, releases, trace
from flexflash.eligibility import (
    FLASH_ATTN_4,
    HOST,
    NO_MASKS,
    REQUIRES_GRAD,
    SOURCE,
    UNAVAILABLE,
    can_use_flex_flash_attention,
    input_buffers_require_grads,
    is_trivial_mask_graph,
    supports_nontrivial_mask_graphs,
    use_flex_flash_attention,
)
from flexflash.errors import Ineligible, InputError
from planted import corrections

CUDA = torch.device("cuda", 0)
IDENTITY = trace(None, "score").graph_module
TRIVIAL = trace(None, "mask").graph_module
CAUSAL = trace(lambda b, h, q, kv: q >= kv, "mask").graph_module


def _table(*, requires_grad: bool) -> torch.Tensor:
    return torch.zeros(4, requires_grad=requires_grad)


def _biased(*, requires_grad: bool) -> GraphModule:
    table = _table(requires_grad=requires_grad)
    return trace(lambda s, b, h, q, kv: s + table[h], "score").graph_module


def _table_mask(*, requires_grad: bool) -> GraphModule:
    table = _table(requires_grad=requires_grad)
    return trace(lambda b, h, q, kv: table[h] >= 0, "mask").graph_module


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with flash-attn-4 and one Hopper GPU, unless a test says otherwise."""
    monkeypatch.setattr(eligibility, "ensure_flash_available", lambda package="": True)
    _capabilities(monkeypatch, {0: (9, 0)})
    yield
    supports_nontrivial_mask_graphs.cache_clear()  # type: ignore[attr-defined]


def _capabilities(monkeypatch: pytest.MonkeyPatch, by_device: dict[int, tuple[int, int]]) -> list[int]:
    asked: list[int] = []

    def capability(index: int) -> tuple[int, int]:
        asked.append(index)
        return by_device[index]

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    supports_nontrivial_mask_graphs.cache_clear()  # type: ignore[attr-defined]
    return asked


@pytest.mark.clause("L4.1")
def test_first_refusal_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    _capabilities(monkeypatch, {0: (8, 0)})
    everything_wrong = (_biased(requires_grad=True), CAUSAL)
    monkeypatch.setattr(eligibility, "ensure_flash_available", lambda package="": False)
    assert can_use_flex_flash_attention(*everything_wrong, device=CUDA) == (False, UNAVAILABLE)
    monkeypatch.setattr(eligibility, "ensure_flash_available", lambda package="": True)
    assert can_use_flex_flash_attention(*everything_wrong, device=CUDA) == (False, REQUIRES_GRAD)
    assert can_use_flex_flash_attention(_biased(requires_grad=False), CAUSAL, device=CUDA) == (False, NO_MASKS)
    assert can_use_flex_flash_attention(_biased(requires_grad=False), TRIVIAL, device=CUDA) == (True, "")


@pytest.mark.clause("L4.1")
def test_reasons_are_stable() -> None:
    assert UNAVAILABLE == "CUTE flash attention library is not available"
    assert REQUIRES_GRAD == "Input buffers require gradients (not supported by flash attention)"
    assert NO_MASKS == "NYI: Non-trivial mask graphs only supported on Hopper (SM90) for flash attention"


@pytest.mark.clause("L4.1")
def test_mask_on_hopper_is_accepted() -> None:
    assert can_use_flex_flash_attention(IDENTITY, CAUSAL, device=CUDA) == (True, "")


@pytest.mark.clause("L4.2")
def test_captures_are_what_follows_the_mods_own_placeholders() -> None:
    graph = _biased(requires_grad=True)
    assert input_buffers_require_grads(graph, 5)
    assert not input_buffers_require_grads(graph, 6), "the only capture is then counted as the mod's own"
    assert not input_buffers_require_grads(_biased(requires_grad=False), 5)
    assert not input_buffers_require_grads(IDENTITY, 5)


@pytest.mark.clause("L4.2")
def test_placeholder_without_metadata_does_not_require_grad() -> None:
    graph = _biased(requires_grad=True)
    for node in graph.graph.nodes:
        node.meta.pop("tensor_meta", None)
    assert not input_buffers_require_grads(graph, 5)


@pytest.mark.clause("L4.2")
def test_the_mask_graphs_captures_count_too() -> None:
    mask = _table_mask(requires_grad=True)
    assert can_use_flex_flash_attention(IDENTITY, mask, device=CUDA) == (False, REQUIRES_GRAD)


@pytest.mark.clause("L4.3")
def test_trivial_mask_graphs() -> None:
    assert is_trivial_mask_graph(TRIVIAL)
    assert is_trivial_mask_graph(trace(lambda b, h, q, kv: q.new_ones((), dtype=torch.bool), "mask").graph_module)
    assert not is_trivial_mask_graph(CAUSAL)
    assert not is_trivial_mask_graph(_table_mask(requires_grad=False)), "five placeholders"
    for count, trivial in ((3, False), (4, True), (5, False)):
        graph = Graph()
        for n in range(count):
            graph.placeholder(f"p{n}")
        graph.output(graph.call_function(torch.ops.aten.full.default, ([], True)))
        assert is_trivial_mask_graph(GraphModule(torch.nn.Module(), graph)) is trivial, f"{count} placeholders"


@pytest.mark.clause("L4.3")
def test_several_outputs_are_an_error() -> None:
    graph = Graph()
    placeholders = [graph.placeholder(name) for name in ("b", "h", "q", "kv")]
    graph.output((placeholders[0], placeholders[1]))
    with pytest.raises(InputError, match="exactly one output"):
        is_trivial_mask_graph(GraphModule(torch.nn.Module(), graph))


@pytest.mark.clause("L4.3")
def test_constant_false_is_not_trivial() -> None:
    nothing = trace(lambda b, h, q, kv: torch.zeros((), dtype=torch.bool), "mask").graph_module
    assert not is_trivial_mask_graph(nothing)
    with corrections.reverted("trivial-mask-fill"):
        assert is_trivial_mask_graph(nothing), "the source's defect"


@pytest.mark.clause("L4.3")
def test_sparse_lists_count_under_a_trivial_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    _capabilities(monkeypatch, {0: (8, 0)})
    answer = can_use_flex_flash_attention(IDENTITY, TRIVIAL, device=CUDA, sparse_lists=True)
    assert answer == (False, NO_MASKS)
    with corrections.reverted("trivial-mask-lists"):
        answer = can_use_flex_flash_attention(IDENTITY, TRIVIAL, device=CUDA, sparse_lists=True)
        assert answer == (True, ""), "the source's defect"


@pytest.mark.clause("L4.4")
@pytest.mark.parametrize(
    ("profile", "capability", "expected"),
    [
        (SOURCE, (9, 0), True),
        (SOURCE, (10, 0), False),
        (SOURCE, (8, 6), False),
        (FLASH_ATTN_4, (9, 0), True),
        (FLASH_ATTN_4, (10, 3), True),
        (FLASH_ATTN_4, (12, 0), False),
        (HOST, (1, 0), True),
    ],
)
def test_architectures_are_data(
    profile: eligibility.Profile, capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _capabilities(monkeypatch, {0: capability})
    assert supports_nontrivial_mask_graphs(CUDA, profile) is expected


@pytest.mark.clause("L4.4")
@pytest.mark.parametrize(
    ("profile", "capability", "dims", "refused"),
    [
        (FLASH_ATTN_4, (9, 0), (64, 128), False),
        (FLASH_ATTN_4, (9, 0), (8, 16), False),
        (FLASH_ATTN_4, (9, 0), (192, 128), False),
        (FLASH_ATTN_4, (9, 0), (64, 256), True),
        (FLASH_ATTN_4, (10, 0), (64, 256), False),
        (SOURCE, (9, 0), (64, 256), False),
        (HOST, (9, 0), (64, 256), False),
    ],
)
def test_head_dims_are_data(
    profile: eligibility.Profile,
    capability: tuple[int, int],
    dims: tuple[int, int],
    refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _capabilities(monkeypatch, {0: capability})
    said = eligibility.refused_head_dims(*dims, CUDA, profile)
    assert said == (
        "flash-attn-4 is supported on compute capability 9.x with values up to 2 times as wide as queries and keys, "
        "not with head dims 64 and 256"
        if refused
        else ""
    )
    assert eligibility.refused_head_dims(*dims, torch.device("cpu"), profile) == ""


@pytest.mark.clause("L4.1", "L4.4")
def test_head_dims_are_refused_before_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def refused(*of: object) -> str:
        asked.append(of)
        return "these head dims"

    monkeypatch.setattr(eligibility, "refused_head_dims", refused)
    q, v = (torch.zeros(1, 1, 4, dim, dtype=torch.bfloat16) for dim in (8, 16))
    stages: list[str] = []
    with pytest.raises(Ineligible, match="cannot be used: these head dims"):
        lower(q, q, v, profile=FLASH_ATTN_4, on_stage=stages.append)
    assert asked == [(8, 16, q.device, FLASH_ATTN_4)] and stages[-1] == "eligibility"


@pytest.mark.clause("L4.4")
def test_capability_is_cached_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _capabilities(monkeypatch, {0: (9, 0), 1: (8, 0)})
    answers = [supports_nontrivial_mask_graphs(torch.device("cuda", i)) for i in (0, 1, 0, 1)]
    assert answers == [True, False, True, False]
    assert asked == [0, 1]


@pytest.mark.clause("L4.4")
def test_switch_capability_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _capabilities(monkeypatch, {0: (9, 0), 1: (8, 0)})
    with corrections.reverted("capability-per-device"):
        answers = [supports_nontrivial_mask_graphs(torch.device("cuda", i)) for i in (0, 1)]
    assert answers == [True, True], "the source's defect: device 1 gets device 0's answer"


@pytest.mark.clause("L4.4")
def test_no_cuda_device_takes_no_mask() -> None:
    assert not supports_nontrivial_mask_graphs(torch.device("cpu"), SOURCE)


@pytest.mark.clause("L4.1", "L4.4")
@pytest.mark.parametrize("name", releases.TORCH)
def test_a_release_of_torch_refuses_by_its_own_profile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = releases.TORCH[name]

    def refused(score: GraphModule, mask: GraphModule, major: int = 9) -> str:
        _capabilities(monkeypatch, {0: (major, 0)})
        usable, reason = can_use_flex_flash_attention(
            score, mask, device=CUDA, profile=release.profile, sparse_lists=True
        )
        assert usable is (reason == "")
        assert usable or release.rule_of(f"flash attention cannot be used: {reason}") is not None
        return reason

    assert refused(_biased(requires_grad=True), CAUSAL) == REQUIRES_GRAD
    assert refused(IDENTITY, _table_mask(requires_grad=True)) == "", "no release looks at the mask's captures here"
    nothing = trace(lambda b, h, q, kv: q.new_zeros((), dtype=torch.bool), "mask").graph_module
    assert refused(IDENTITY, nothing, major=8) == "", "every constant mask is trivial"
    by_architecture = {major: refused(IDENTITY, CAUSAL, major) for major in (8, 9, 10, 12)}
    assert by_architecture == {8: "", 9: "", 10: "", 12: ""} | ({8: NO_MASKS, 12: NO_MASKS} if name == "2.10" else {})
    monkeypatch.setattr(eligibility, "ensure_flash_available", lambda package="": False)
    missing = refused(_biased(requires_grad=True), CAUSAL)
    assert missing.startswith(UNAVAILABLE) and (missing != UNAVAILABLE) is (Version(name) >= Version("2.13"))


@pytest.mark.clause("L4.1")
def test_the_releases_of_torch_are_those_read() -> None:
    assert list(releases.TORCH) == ["2.10", "2.11", "2.12", "2.13", "2.14", "2.15"]
    assert [r.profile.needs_full_lists for r in releases.TORCH.values()] == [True] * 4 + [False] * 2
    assert releases.of("2.13.0+cu130") is releases.TORCH["2.13"] and releases.of("2.16.0.dev20261201") is None
    assert SOURCE.mask_architectures == frozenset({9}), "the source's own rules are a profile of their own"


@pytest.mark.clause("L4.5")
def test_forced_and_not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = {"force_flash": True}
    assert use_flex_flash_attention(IDENTITY, CAUSAL, forced, device=CUDA) is True
    assert use_flex_flash_attention(IDENTITY, CAUSAL, {}, device=CUDA) is False
    _capabilities(monkeypatch, {0: (8, 0)})
    assert use_flex_flash_attention(IDENTITY, CAUSAL, {}, device=CUDA) is False
    with pytest.raises(RuntimeError, match=r"force_flash=True but flash attention cannot be used: NYI"):
        use_flex_flash_attention(IDENTITY, CAUSAL, forced, device=CUDA)
