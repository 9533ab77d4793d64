"""Inputs in storages of exactly their size, so that an overread leaves the allocation and the tool reports it.

`flexconf.language.layouts` puts guards around every tensor, so that a wrong read shows in the result. A memory checker
would take the guards for valid memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from flexconf.inputs import Inputs, Mod
from flexconf.inputs.block_lists import relisted
from flexconf.language import modtext

_ALIGNMENT = 64  # elements; `layouts` places its offsets relative to a multiple of this


def tighten(given: Inputs) -> Inputs:
    """The same inputs on the same device, without guards before and after the tensors.

    Shapes, strides, values and shared storages stay the same. An unaligned start stays unaligned, with up to 63
    elements before it. The gaps inside a view (steps, padded rows) stay part of its allocation. The mods are compiled
    again over the new captures, so the case must have its mods as text.
    """
    named = {"q": given.q, "k": given.k, "v": given.v}
    tensors = named | {f"capture {name}": t for name, t in given.captures.items()}
    fresh = _apart(tensors)
    captures = {name: fresh[f"capture {name}"] for name in given.captures}
    case = given.case
    mods = {
        kind: modtext.compile_mod(text, kind, captures, case.constants(), case.name, case.form)
        if text is not None
        else None
        for kind, text in _texts(given).items()
    }
    return dataclasses.replace(
        given,
        q=fresh["q"],
        k=fresh["k"],
        v=fresh["v"],
        captures=captures,
        score_mod=mods["score"],
        mask_mod=mods["mask"],
        block_mask=_block_mask(given, mods["mask"]),
    )


def _texts(given: Inputs) -> dict[modtext.Kind, str | None]:
    return {"score": given.case.score_mod, "mask": given.case.mask_mod}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Clone each storage from the first to the last element that its tensors use, and recreate the views on it."""
    shared: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        # Empty tensors have no storage to share.
        key = tensor.untyped_storage().data_ptr() or -len(shared) - 1
        shared.setdefault(key, []).append(name)
    fresh: dict[str, Tensor] = {}
    for names in shared.values():
        first = min(tensors[n].storage_offset() for n in names)
        last = max(tensors[n].storage_offset() + _extent(tensors[n]) for n in names)
        lead = first % _ALIGNMENT
        base = tensors[names[0]].detach()
        span = base.as_strided((lead + max(last - first, 0),), (1,), first - lead).clone()
        for name in names:
            tensor = tensors[name]
            view = span.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - first + lead)
            fresh[name] = view.requires_grad_() if tensor.requires_grad else view
    return fresh


def _extent(tensor: Tensor) -> int:
    if 0 in tensor.shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _block_mask(given: Inputs, mask_mod: Mod | None) -> BlockMask | None:
    old = given.block_mask
    if old is None:
        return None
    mod = mask_mod if given.case.mask_mod is not None else None
    return relisted(old, old.kv_indices, old.full_kv_indices, mod)
