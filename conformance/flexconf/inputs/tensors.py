"""Makes the tensors, mods and BlockMask of a case.

The tensors of a case have the same bytes on every platform and with every library version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from flexconf.cases.case import Capture, Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.inputs.block_lists import block_mask
from flexconf.language import distributions, layouts, modtext
from flexconf.language.layouts import Placement, dense

__all__ = ["Inputs", "Mod", "digest", "materialize"]

Mod = Callable[..., Tensor]

_SPREAD = {
    "normal": "normal", "large": "normal(3)", "tiny": "normal(2 ** -10)", "constant": "constant(1)",
    "zeros": "constant(0)", "infinite": "normal",
}  # fmt: skip
# About one row of q in eight and one column of v in four have an infinity. The others have none, so that errors in
# their results still show.
_INFINITE = {"q": "sprinkle(inf, 1 / (8 * D))", "v": "sprinkle(-inf, 1 / (4 * N + 4))"}


@dataclass(frozen=True)
class Inputs:
    """The inputs of a subject and of an oracle.

    q is (B, H, M, D), k is (B, Hkv, N, D), v is (B, Hkv, N, Dv). `captures` are tensors by name. `scale` is the factor
    on Q K^T. `digests` has the `digest` of each tensor: by the names q, k and v, and "capture:NAME" for a capture. A
    missing mod or BlockMask is None.
    """

    case: Case
    q: Tensor
    k: Tensor
    v: Tensor
    score_mod: Mod | None
    mask_mod: Mod | None
    captures: dict[str, Tensor]
    block_mask: BlockMask | None
    scale: float
    digests: dict[str, str]


def materialize(
    case: Case,
    device: str | torch.device = "cpu",
    functions: Mapping[modtext.Kind, Mod] | None = None,
) -> Inputs:
    """Makes the tensors, mods and BlockMask of a case.

    `functions` are mods that exist as Python functions, such as a user's own. They replace the mods of the case.

    Every tensor is a view of guarded storage (see `flexconf.language.layouts`). If the case expects no refusal, each
    mod compiled from text is checked to return a scalar of the right dtype. Raises InputError.
    """
    problem = case.problem
    captures: dict[str, Tensor] = {}
    for capture in case.captures:
        captures[capture.name] = _capture(capture, case, captures, device)
    mods: dict[modtext.Kind, Mod | None] = {"score": None, "mask": None, **(functions or {})}
    texts: dict[modtext.Kind, str | None] = {"score": case.score_mod, "mask": case.mask_mod}
    for kind, text in texts.items():
        if text is None or mods[kind] is not None:
            continue
        try:
            mod = modtext.compile_mod(text, kind, captures, case.constants(), case.name)
            if case.expect == "ok":
                modtext.check_result(mod, kind)
            if case.form != "function":
                mod = modtext.compile_mod(text, kind, captures, case.constants(), case.name, case.form)
        except InputError as error:
            raise InputError(f"case {case.name!r}: {kind}_mod: {error}") from None
        mods[kind] = mod
    q, k, v = _qkv(problem, case.seed, device)
    tensors = {"q": q, "k": k, "v": v, **{f"capture:{name}": tensor for name, tensor in captures.items()}}
    return Inputs(
        case=case,
        q=q,
        k=k,
        v=v,
        score_mod=mods["score"],
        mask_mod=mods["mask"],
        captures=captures,
        block_mask=block_mask(case, mods["mask"], device),
        scale=problem.effective_scale,
        digests={name: digest(tensor) for name, tensor in tensors.items()},
    )


def digest(tensor: Tensor) -> str:
    """SHA-256, in hex, of dtype, shape and elements in row-major order. It does not depend on the strides."""
    plain = tensor.detach().cpu().contiguous()
    header = f"{str(plain.dtype).removeprefix('torch.')}{tuple(plain.shape)}"
    # Clone: a tensor of one element counts as contiguous with any stride, but `view(torch.uint8)` refuses some strides.
    dense = plain.reshape(-1).clone(memory_format=torch.contiguous_format)
    elements = dense.view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(header.encode() + elements).hexdigest()


def _capture(capture: Capture, case: Case, earlier: dict[str, Tensor], device: str | torch.device) -> Tensor:
    what = f"case {case.name!r}: capture {capture.name!r}"
    symbols = case.problem.symbols()
    shape = capture.resolve_shape(symbols)
    layout = layouts.parse(capture.layout)
    if layout.of is not None:
        base = earlier[layout.of]
        view = {
            "view_of": lambda: base.view_as(base),
            "transpose_of": lambda: base.permute(*reversed(range(base.dim()))),
            "last_of": lambda: base[-1] if base.dim() and base.shape[0] else base,
            "first_of": lambda: base[0] if base.dim() and base.shape[0] else base,
        }[layout.kind]()
        dtype = str(view.dtype).removeprefix("torch.")
        if tuple(view.shape) != shape or dtype != capture.dtype:
            raise InputError(
                f"{what}: {capture.layout} is {dtype} of shape {tuple(view.shape)}, not {capture.dtype} of {shape}"
            )
        return view
    try:
        where = layouts.placement(layout, shape)
        values = distributions.draw(
            capture.values, where.stored_shape, case.seed, f"capture:{capture.name}", symbols, capture.dtype
        )
        stored = layouts.encode(values, capture.dtype, f"values {capture.values!r}")
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    tensor = layouts.place(stored, where, device)
    return tensor.requires_grad_() if capture.requires_grad else tensor


# ------------------------------------------------------------------------------------------------- q, k and v


def _draw(name: str, shape: Sequence[int], problem: Problem, seed: int) -> Tensor:
    spec = _SPREAD[problem.qkv]
    if name == "v" and problem.qkv in ("large", "constant", "zeros"):
        spec = "normal"  # only the scores are special; with a normal v, errors show in the output
    if problem.qkv == "infinite" and name in _INFINITE:
        spec = _INFINITE[name]
    values = distributions.draw(spec, tuple(shape), seed, name, problem.symbols(), problem.dtype)
    return layouts.encode(values, problem.dtype, name)


def _qkv(problem: Problem, seed: int, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor]:
    p = problem
    shapes = {"q": (p.B, p.H, p.M, p.D), "k": (p.B, p.Hkv, p.N, p.D), "v": (p.B, p.Hkv, p.N, p.Dv)}
    if p.layout == "packed_qkv":
        q, k, v = _packed([_draw(name, shape, p, seed) for name, shape in shapes.items()], device)
        return q, k, v
    if p.layout == "packed_kv":
        k, v = _packed([_draw(name, shapes[name], p, seed) for name in ("k", "v")], device)
        return _single("q", shapes["q"], p, seed, device), k, v
    q, k, v = (_single(name, shape, p, seed, device) for name, shape in shapes.items())
    return q, k, v


def _single(name: str, shape: tuple[int, ...], problem: Problem, seed: int, device: str | torch.device) -> Tensor:
    where = _placement(problem.layout, name, shape)
    return layouts.place(_draw(name, where.stored_shape, problem, seed), where, device)


def _placement(layout: str, name: str, shape: tuple[int, ...]) -> Placement:
    bmhd = (0, 2, 1, 3)
    match layout:
        case "bmhd" | "packed_kv":
            return dense(shape, bmhd)
        case "expanded_heads":
            return dense(shape, bmhd, expanded=(1,) if name != "q" else ())
        case "expanded_batch":
            return dense(shape, bmhd, expanded=(0,) if name != "q" else ())
        case "padded":
            return dense(shape, pad=8)  # rows stay aligned to 16 bytes
        case "offset":
            return dense(shape, shift=8)  # aligned to 16 bytes, but not to 32
    return dense(shape)


def _packed(parts: Sequence[Tensor], device: str | torch.device) -> list[Tensor]:
    """Packs tensors (B, heads_i, L, D) into one (B, L, sum of heads_i, D), and returns the views of it."""
    together = torch.cat([part.transpose(1, 2) for part in parts], dim=2)
    packed = layouts.place(together, dense(tuple(together.shape)), device)
    split = torch.split(packed, [part.shape[1] for part in parts], dim=2)
    return [part.transpose(1, 2) for part in split]
