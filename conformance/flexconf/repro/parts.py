"""The parts of a script: its inputs as text, the source of the mods, the block mask."""

from __future__ import annotations

import dataclasses
import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from flexconf import inputs
from flexconf.cases.block import BlockSpec
from flexconf.cases.case import Case
from flexconf.inputs import Inputs
from flexconf.language import modtext
from flexconf.repro import literals


def _mod_source(mod: Callable[..., Tensor], kind: str) -> tuple[str, tuple[str, ...]]:
    """(source of the factory `make_<kind>_mod`, names of its parameters), from the source by `modtext.compile_mod`."""
    code = modtext.code_of(mod)
    assert code is not None
    lines = linecache.getlines(code.co_filename)
    source = "".join(lines)
    found = re.match(r"def make_mod\((.*)\):", source)
    assert found is not None
    parameters = tuple(name.strip() for name in found[1].split(",") if name.strip())
    return source.replace("def make_mod(", f"def make_{kind}_mod(", 1), parameters


@dataclass(frozen=True)
class Parts:
    """The parts that fill the template.

    `given` are the inputs as the script makes them. `qkv` and `captures` are statements. `mods` holds (source of the
    factory, names of its parameters) by kind, "score" or "mask".
    """

    given: Inputs
    qkv: list[str]
    captures: list[str]
    mods: dict[str, tuple[str, tuple[str, ...]]]


def parts(case: Case, exact: bool) -> Parts:
    """The parts of the script for `case`. With `exact`, the tensors hold the case's own values."""
    original = inputs.materialize(case)
    qkv, tensors = literals.qkv(case, original, exact)
    captured, captures = literals.captures(case, original, exact)
    mods: dict[str, tuple[str, tuple[str, ...]]] = {}
    functions: dict[modtext.Kind, inputs.Mod] = {}
    texts: dict[modtext.Kind, str | None] = {"score": case.score_mod, "mask": case.mask_mod}
    for kind, text in texts.items():
        if text is not None:
            functions[kind] = modtext.compile_mod(
                text, kind, captures, case.constants(), f"{case.name} repro", case.form
            )
            mods[kind] = _mod_source(functions[kind], kind)
    rebuilt = inputs.materialize(case, functions=functions)
    given = dataclasses.replace(rebuilt, q=tensors["q"], k=tensors["k"], v=tensors["v"], captures=captures)
    return Parts(given, qkv, captured, mods)


def block_lines(case: Case, given: Inputs) -> list[str]:
    block, p = case.block, case.problem
    if given.block_mask is None:
        return ["block_mask = None"]
    mask = "mask_mod" if case.mask_mod is not None else "None"
    if _by_mask(block):
        # create_block_mask cannot count the parameters of modules and methods.
        counted = "lambda b, h, q, kv: mask_mod(b, h, q, kv)" if case.form in ("module", "method") else "mask_mod"
        heads = "None, None" if block.broadcast else f"{p.B}, {p.H}"
        return [
            f"block_mask = create_block_mask({counted}, {heads}, {p.M}, {p.N}, device=DEVICE, "
            f"BLOCK_SIZE=({block.q}, {block.kv}))",
            *([] if counted == "mask_mod" else ["block_mask.mask_mod = mask_mod"]),
        ]
    lists = given.block_mask
    named = {
        "kv_num": lists.kv_num_blocks, "kv_idx": lists.kv_indices,
        "full_num": lists.full_kv_num_blocks, "full_idx": lists.full_kv_indices,
    }  # fmt: skip
    lines = [f"{name} = {_list_tensor(t)}" for name, t in named.items() if t is not None]
    lines.append(
        f"block_mask = BlockMask.from_kv_blocks({', '.join(n if t is not None else 'None' for n, t in named.items())}, "
        f"BLOCK_SIZE=({block.q}, {block.kv}), mask_mod={mask}, seq_lengths=({p.M}, {p.N})"
        f"{'' if lists.q_num_blocks is not None else ', compute_q_blocks=False'})"
    )
    return lines


def _by_mask(block: BlockSpec) -> bool:
    return block.kind == "from_mask" and not block.changes_lists


def _list_tensor(t: Tensor) -> str:
    """The text that makes the tensor, with its strides if it is a view of a larger one."""
    stored = t.untyped_storage().nbytes() // t.element_size()
    if t.is_contiguous() and stored == t.numel():
        return f"torch.tensor({literals.nested(t.tolist())}, dtype=torch.int32, device=DEVICE)"
    elements = t.as_strided((stored,), (1,), 0).tolist()
    where = f"{tuple(t.shape)}, {t.stride()}, {t.storage_offset()}"
    return f"torch.tensor({literals.nested(elements)}, dtype=torch.int32, device=DEVICE).as_strided({where})"


def attended_lines(case: Case, given: Inputs) -> list[str]:
    """The body of the script's `attended(b, h, m, n)`: it looks at the block lists first, then at the mask_mod."""
    asked = "bool(mask_mod(*at(b, h, m, n)))" if case.mask_mod is not None else "True"
    if given.block_mask is None or _by_mask(case.block):
        return [f"return {asked}"]
    full = given.block_mask.full_kv_indices is not None
    return [
        f"row, column = m // {case.block.q}, n // {case.block.kv}",
        "def listed(count, index):",
        "    i, j = min(b, count.shape[0] - 1), min(h, count.shape[1] - 1)",
        "    return column in index[i, j, row, : int(count[i, j, row])].tolist()",
        *(["if listed(full_num, full_idx):", "    return True"] if full else []),
        f"return listed(kv_num, kv_idx) and {asked}",
    ]
