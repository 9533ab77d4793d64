"""BlockMasks as people make them, and mods that are no functions: each is made as the case says, on any torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.inputs.changed_lists import Lists, adjusted
from flexconf.language import modtext
from flexconf.oracles.blocks import visits
from flexconf.oracles.evaluation import evaluate
from flexconf.repro.parts import block_lines

CASES = [case for case in catalogue.load() if case.block.changes_lists]
BY_MASK = [case for case in CASES if case.block.kind == "from_mask"]
FORMS = [case for case in catalogue.load() if case.form != "function"]


def _mask(case: Case) -> tuple[inputs.Inputs, BlockMask]:
    given = inputs.materialize(case)
    assert given.block_mask is not None
    return given, given.block_mask


def _same(a: BlockMask, b: BlockMask) -> int:
    """The number of listed blocks of `a`. Asserts that both list the same blocks in the same order."""
    seen = 0
    for counts, indices in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        one, two = ((getattr(m, counts), getattr(m, indices)) for m in (a, b))
        assert (one[0] is None) == (two[0] is None)
        if one[0] is None:
            continue
        assert torch.equal(one[0], two[0])
        for x, y, count in zip(one[1].flatten(0, 2), two[1].flatten(0, 2), one[0].flatten().tolist(), strict=True):
            assert x[:count].tolist() == y[:count].tolist()
            seen += count
    return seen


def test_the_catalogue_has_every_change_and_every_form() -> None:
    assert len(CASES) >= 15
    for name in ("made_for", "width", "slice"):
        assert sum(getattr(case.block, name) is not None for case in CASES) >= 3
    assert sum(not case.block.full_lists for case in CASES) >= 3
    assert {case.form for case in FORMS} == set(modtext.FORMS) - {"function"}


@pytest.mark.parametrize("case", BY_MASK, ids=lambda case: case.name)
def test_lists_from_a_mask_attend_what_the_mask_says(case: Case) -> None:
    """L8.4: full blocks, and partial blocks where mask_mod is true, are together the mask_mod itself."""
    given, mask = _mask(case)
    p = case.problem
    assert given.mask_mod is not None and mask.seq_lengths == (p.M, p.N)
    says = evaluate(given.mask_mod, "mask", None, p.B, p.H, p.M, p.N).value
    which = visits(mask, p.B, p.H, p.M, p.N)
    attended = which.full | (which.partial & says)
    assert torch.equal(attended.expand_as(says), says)
    assert bool(says.any()) and not bool(says.all())


def test_a_slice_has_the_lists_of_its_part_and_the_strides_of_its_base() -> None:
    """L8.4."""
    plain = Case("c", mask_mod="q - 40 * h >= kv", problem=Problem(M=300, N=300))
    of_all = create_block_mask(lambda b, h, q, kv: q - 40 * (h - 2) >= kv, 3, 6, 300, 300, device="cpu")
    _, mask = _mask(plain.replace(block=BlockSpec(slice="1, 2:4", of=(3, 6, 3))))
    assert _same(mask, of_all[1, 2:4]) > 10
    assert mask.kv_indices.stride() == of_all[1, 2:4].kv_indices.stride()
    assert mask.kv_indices.storage_offset() == (6 + 2) * 3 * 3


def test_the_rest_of_a_sliced_base_lists_every_block() -> None:
    """So that a lowering that reads the lists in the wrong place is seen."""
    _, mask = _mask(next(case for case in CASES if case.name == "sliced_batch_and_heads"))
    assert mask.full_kv_num_blocks is not None
    counts = mask.full_kv_num_blocks.as_strided((3, 6, 3), (18, 3, 1), 0)
    assert torch.equal(counts[1, 2:4], mask.full_kv_num_blocks[0])
    assert counts[[0, 2]].unique().tolist() == [3]


@pytest.mark.parametrize("lengths", [(200, 512), (200, 257), (512, 257), (512, 512), (130, 385)])
def test_adjusted_lists_are_those_of_torch(lengths: tuple[int, int]) -> None:
    """L8.4. Before torch 2.14, `_adjust` counts by the values of the entries, and names blocks that are not there."""
    made = create_block_mask(lambda b, h, q, kv: q >= kv, 1, 2, 512, 512, device="cpu")
    case = Case("c", mask_mod="q >= kv", problem=Problem(M=lengths[0], N=lengths[1]))
    _, ours = _mask(case.replace(block=BlockSpec(made_for=(512, 512))))
    theirs = made._adjust(*lengths)
    assert ours.seq_lengths == theirs.seq_lengths == lengths
    assert ours.kv_indices.shape == theirs.kv_indices.shape and ours.kv_indices.stride() == theirs.kv_indices.stride()
    if lengths == (512, 257) and Version(torch.__version__) < Version("2.14"):
        assert (ours.kv_num_blocks[0, 0].tolist(), theirs.kv_num_blocks[0, 0].tolist()) == ([1, 1, 1, 0], [1, 1, 1, 1])
        assert int(theirs.kv_indices[0, 0, 3, 0]) == 3
    else:
        assert _same(ours, theirs) >= 6


def test_adjusted_lists_keep_their_first_entries() -> None:
    counts = torch.tensor([[[2, 1, 3]]], dtype=torch.int32)
    indices = torch.tensor([[[[0, 3, 1, 2], [2, 0, 1, 3], [0, 1, 3, 2]]]], dtype=torch.int32)
    kept = adjusted(Lists(counts, indices), 3, 2, Case("c"))
    assert kept.counts.tolist() == [[[1, 0, 2]]]
    assert [row[:n] for row, n in zip(kept.indices[0, 0].tolist(), [1, 0, 2], strict=True)] == [[0], [], [0, 1]]
    with pytest.raises(InputError, match="ascending"):
        adjusted(Lists(counts, indices.flip(-1)), 3, 2, Case("c"))


def test_lists_without_full_ones_list_the_same_blocks() -> None:
    """L5.2, L8.4."""
    case = Case("c", mask_mod="q >= kv", problem=Problem(M=300, N=300))
    _, whole = _mask(case)
    _, partial = _mask(case.replace(block=BlockSpec(full_lists=False)))
    assert partial.full_kv_num_blocks is None and partial.full_kv_indices is None
    assert partial.kv_num_blocks.tolist() == [[[1, 2, 3]] * 2]
    assert partial.kv_indices[0, 0, 2].tolist() == [0, 1, 2]
    assert whole.full_kv_num_blocks is not None and int(whole.full_kv_num_blocks.sum()) > 0


@pytest.mark.parametrize(("width", "shapes"), [(3, (3, 3)), ((7, 1), (7, 1)), (9, (9, 9))])
def test_lists_have_the_width_that_the_case_states(width: Any, shapes: tuple[int, int]) -> None:
    """L8.4: and the same blocks as without a width."""
    case = Case("c", mask_mod="(q >= kv) & (q - kv < 200)", problem=Problem(M=500, N=500))
    _, plain = _mask(case)
    _, mask = _mask(case.replace(block=BlockSpec(width=width)))
    assert mask.full_kv_indices is not None
    assert (mask.kv_indices.shape[3], mask.full_kv_indices.shape[3]) == shapes
    assert _same(mask, plain) > 10


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"slice": "1"}, "slice and of"),
        ({"of": (1, 1, 1)}, "slice and of"),
        ({"slice": "1, 2", "of": (2, 2)}, "batches, heads and rows"),
        ({"slice": "2", "of": (2, 2, 2)}, "takes nothing of 2"),
        ({"slice": "1:1", "of": (2, 2, 2)}, "takes nothing of 2"),
        ({"slice": "[2]", "of": (2, 2, 2)}, "takes nothing of 2"),
        ({"slice": "0, 0, 0, 0", "of": (2, 2, 2)}, "one to three parts"),
        ({"slice": "", "of": (2, 2, 2)}, "one to three parts"),
        ({"slice": "0 1", "of": (2, 2, 2)}, "one to three parts"),
        ({"slice": "0::2", "of": (2, 2, 2)}, "no index, no slice"),
        ({"slice": "b", "of": (2, 2, 2)}, "no index, no slice"),
        ({"slice": "[0], [1]", "of": (2, 2, 2)}, "at most one part"),
        ({"made_for": (300,)}, "two lengths"),
        ({"made_for": (0, 5)}, "whole number from 1"),
        ({"width": (1, 2, 3)}, "two such as"),
        ({"width": True}, "whole number"),
        ({"width": (1, 2), "full_lists": False}, "give one number"),
        ({"full_lists": 0}, "true or false"),
        ({"kind": "lists", "full": ((0,),), "full_lists": False}, "states full lists"),
        ({"kind": "none", "width": 3}, "has no lists"),
    ],
)
def test_changes_of_lists_that_are_refused(fields: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        BlockSpec(**fields)


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"made_for": (300, 299)}, "shorter than"),
        ({"width": 1}, "do not fit width 1"),
        ({"slice": "0, 0", "of": (2, 2, 3)}, r"takes .* = \(1, 1, 3\), but the lists are for \(1, 2, 3\)"),
        ({"kind": "lists", "pattern": "reversed", "made_for": (300, 400)}, "ascending"),
    ],
)
def test_changes_that_do_not_fit_the_lists_are_refused(fields: dict[str, Any], hint: str) -> None:
    case = Case("c", mask_mod="torch.abs(q - kv) < 100", problem=Problem(M=300, N=300), block=BlockSpec(**fields))
    with pytest.raises(InputError, match=f"case 'c': block: .*{hint}"):
        inputs.materialize(case)


def test_a_digest_has_the_newer_keys_only_if_they_are_used() -> None:
    """So that the cases from before these keys keep their digest, and with it their golden."""
    case = Case("c", mask_mod="q >= kv", block=BlockSpec(q=64))
    assert case.digest() == "876f7919dd26f9db6191fa86c29446d50433f87c70208be6e3bd208a1383dc6f"
    others: list[Case] = [
        *(case.replace(block=BlockSpec(q=64, **fields)) for fields in (
            {"made_for": (300, 300)}, {"full_lists": False}, {"width": 3}, {"slice": "0", "of": (2, 2, 2)}
        )),  # type: ignore[arg-type]
        case.replace(form="module"),
    ]  # fmt: skip
    assert len({other.digest() for other in [case, *others]}) == 6


@pytest.mark.parametrize("case", [*CASES, *FORMS], ids=lambda case: case.name)
def test_a_script_makes_the_same_lists_in_the_same_layout(case: Case) -> None:
    given, mask = _mask(case)
    names: dict[str, Any] = {
        "torch": torch, "BlockMask": BlockMask, "create_block_mask": create_block_mask, "DEVICE": "cpu",
        "mask_mod": given.mask_mod,
    }  # fmt: skip
    exec("\n".join(block_lines(case, given)), names)
    made = names["block_mask"]
    assert _same(mask, made) > 0
    assert made.seq_lengths == mask.seq_lengths and made.BLOCK_SIZE == mask.BLOCK_SIZE
    assert made.kv_indices.stride() == mask.kv_indices.stride()
    if case.mask_mod is not None:
        assert made.mask_mod is given.mask_mod


def _forms() -> dict[str, Callable[..., Tensor]]:
    captures = {"table": torch.tensor([0.0, 3.0]), "unread": torch.zeros(1)}
    text = "d = q - kv\n(d > 2) & (table[h] > H)"
    return {
        form: modtext.compile_mod(text if form != "and_masks" else text.split("\n")[1].replace("d", "q"), "mask",
                                  captures, {"H": 2}, "c", form)
        for form in modtext.FORMS if form != "or_masks"
    }  # fmt: skip


def test_a_mod_has_the_form_that_the_case_states() -> None:
    found = _forms()
    module, method, partial = found["module"], found["method"], found["partial"]
    assert isinstance(module, torch.nn.Module) and list(dict(module.named_buffers())) == ["table"]
    assert list(vars(method.__self__)) == ["table"]  # type: ignore[attr-defined]
    assert isinstance(partial, functools.partial) and isinstance(partial.args[0], Tensor)
    assert found["and_masks"].__qualname__.startswith("and_masks")
    assert found["function"].__code__.co_freevars == ("H", "table")


@pytest.mark.parametrize("form", [form for form in modtext.FORMS if form != "or_masks"])
def test_a_mod_computes_the_same_in_every_form(form: str) -> None:
    """L7.2."""
    mod = _forms()[form]
    seen = [[bool(mod(*map(torch.tensor, (0, h, q, 1)))) for q in (1, 2, 3, 4)] for h in (0, 1)]
    assert seen == [[False] * 4, [False, False, form == "and_masks", True]]
    code = modtext.code_of(mod)
    assert code is not None and code.co_filename.startswith("<flexconf mask_mod c ")


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"form": "lambda", "mask_mod": "q > kv"}, "form of case 'c' is 'lambda'"),
        ({"form": "and_masks", "mask_mod": "q > kv"}, "masks joined by &"),
        ({"form": "or_masks", "mask_mod": "(q > kv) & (h > 0)"}, "masks joined by |"),
        ({"form": "and_masks", "mask_mod": "d = q > kv\nd & (h > 0)"}, "masks joined by &"),
        ({"form": "and_masks", "score_mod": "score * 2"}, "needs a mod of that form"),
        ({"form": "module"}, "needs a mod of that form"),
    ],
)
def test_forms_that_are_refused(fields: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        Case("c", **fields)
    assert hint in str(caught.value)


def test_a_module_keeps_a_capture_that_requires_grad() -> None:
    """L4.2's ground."""
    capture = Capture.parse("g=H:float32:::requires_grad")
    case = Case("c", score_mod="score + g[h]", captures=(capture,), problem=Problem(M=8, N=8), form="module")
    module = inputs.materialize(case).score_mod
    assert isinstance(module, torch.nn.Module) and dict(module.named_buffers())["g"].requires_grad
