"""Writes tensors as expressions of a script: short expressions where possible, every bit where the values matter.

Every expression comes with the tensor that it makes, so that the oracle can bound the results of the script's inputs.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flexconf.cases.case import Capture, Case
from flexconf.inputs import Inputs
from flexconf.language import layouts

__all__ = ["captures", "nested", "number", "qkv"]

_LITERAL = {True: 4, False: 16}  # whether floats -> the most elements of a tensor that are written one by one
_LISTED = 64  # the same with `exact`
_PACKED_WIDTH = 96


@dataclass(frozen=True)
class _Written:
    """A tensor and the expression that makes it."""

    text: str
    tensor: Tensor


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype)


def number(value: bool | int | float) -> str:
    """A number as text. Infinities and NaN are written with the names `inf` and `nan`, which the script defines."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return repr(value)


def nested(values: object) -> str:
    """Nested lists of numbers as text."""
    return f"[{', '.join(map(nested, values))}]" if isinstance(values, list) else number(values)  # type: ignore[arg-type]


def _literal(tensor: Tensor) -> _Written:
    return _Written(f"torch.tensor({nested(tensor.tolist())}, dtype={_dtype(tensor)})", tensor)


def _packed(tensor: Tensor) -> _Written:
    """The bytes of `tensor`, compressed, as an argument of the script's function `unpacked`."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    code = base64.b64encode(zlib.compress(raw, 9)).decode()
    lines = [code[i : i + _PACKED_WIDTH] for i in range(0, len(code), _PACKED_WIDTH)]
    body = "\n".join(f'    "{line}"' for line in lines)
    return _Written(f"unpacked({_dtype(tensor)}, {tuple(tensor.shape)},\n{body}\n)", tensor)


def _written(tensor: Tensor, place: int, exact: bool) -> _Written:
    """`tensor` as an expression. Unless `exact`, other values may stand in for many elements.

    `place` is the number of the tensor in the script. Tensors with different numbers get different values.
    """
    plain = tensor.detach().cpu().contiguous()
    shape = tuple(plain.shape)
    if plain.numel() == 0:
        return _Written(f"torch.zeros({shape}, dtype={_dtype(plain)})", plain)
    first = plain.reshape(-1)[0].item()
    if plain.dim() == 0 or plain.numel() == 1:
        return _literal(plain)
    if _same_bits(plain, plain.reshape(-1)[0].expand(shape)):
        return _Written(f"torch.full({shape}, {number(first)}, dtype={_dtype(plain)})", plain)
    counted = torch.arange(shape[-1]).to(plain.dtype).expand(shape) if plain.dtype != torch.bool else None
    if counted is not None and _same_bits(plain, counted):
        along = f"torch.arange({shape[-1]}).to({_dtype(plain)})"
        return _Written(along if plain.dim() == 1 else f"{along}.expand({shape}).contiguous()", plain)
    if plain.numel() <= (_LISTED if exact else _LITERAL[plain.is_floating_point()]):
        return _literal(plain)
    if exact:
        return _packed(plain)
    found = _simple(plain, place)
    return found if found is not None else _packed(plain)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and dtype are equal to the bit: 0 and -0 are not, a NaN is itself."""
    a, b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(a, b)


def _simple(plain: Tensor, place: int) -> _Written | None:
    """Values in the range of `plain` that integer arithmetic makes. Returns None if there is no such expression."""
    shape, count = tuple(plain.shape), plain.numel()
    step, start = 37 + 2 * place, 11 * place
    counting = f"torch.arange({count})"
    n = torch.arange(count)
    if plain.dtype == torch.bool:
        tensor = (n * step + start) % 3 == 0
        return _Written(f"(({counting} * {step} + {start}) % 3 == 0).view({shape})", tensor.view(shape))
    if not plain.is_floating_point():
        low, high = int(plain.min()), int(plain.max())
        span = high - low + 1
        if span > 1 << 40:
            return None
        tensor = ((n * step + start) % span + low).to(plain.dtype)
        shift = f" + {low}" if low > 0 else f" - {-low}" if low else ""
        text = f"(({counting} * {step} + {start}) % {span}{shift}).to({_dtype(plain)}).view({shape})"
        return _Written(text, tensor.view(shape))
    finite = plain[plain.isfinite()].double()
    if not finite.numel():
        return None
    # Multiples of 1/16 from -2 to 2, times a power of two. They are exact in every float dtype. If `plain` holds no
    # negative values, they are positive.
    largest = float(finite.abs().max())
    factor = 2.0 ** round(math.log2(largest / 2)) if largest else 1.0
    low = 1 if float(finite.min()) >= 0 else -32
    values = ((n * step + start) % (33 - low) + low) / 16 * factor
    shift = f" + {low}" if low > 0 else f" - {-low}"
    scaled = "" if factor == 1 else f" * {number(factor)}"
    text = f"((({counting} * {step} + {start}) % {33 - low}{shift}) / 16{scaled})"
    specials = plain[~plain.isfinite()]
    if specials.numel():
        special = float(specials[0])
        values = torch.where(n % 5 == 1, torch.tensor(special, dtype=values.dtype), values)
        text = f"torch.where({counting} % 5 == 1, {number(special)}, {text})"
    return _Written(f"{text}.to({_dtype(plain)}).view({shape})", values.to(plain.dtype).view(shape))


def _laid_out(name: str, capture: Capture, values: Tensor) -> tuple[str, Tensor]:
    """(statement that gives `name` the layout of the capture, its values afterwards).

    The statement is "" if the layout is contiguous. Layouts with stride 0 repeat values, so the values may change.
    """
    layout = layouts.parse(capture.layout)
    rank, shape = values.dim(), tuple(values.shape)
    match layout.kind:
        case "transposed":
            return f"{name} = {name}.transpose(-1, -2).contiguous().transpose(-1, -2)", values
        case "permuted" if rank > 1:
            order = layout.numbers or tuple(reversed(range(rank)))
            back = tuple(order.index(i) for i in range(rank))
            return f"{name} = {name}.permute({order}).contiguous().permute({back})", values
        case "stepped" if rank:
            step = layout.numbers[0] if layout.numbers else 2
            return f"{name} = {name}.repeat_interleave({step}, -1)[..., ::{step}]", values
        case "padded" if rank:
            pad = layout.numbers[0] if layout.numbers else 3
            guards = f"{name}[..., :1].repeat_interleave({pad}, -1)"
            return f"{name} = torch.cat([{name}, {guards}], -1)[..., :-{pad}]", values
        case "expanded" if rank:
            text, once = name, values
            for dimension in layout.numbers or (0,):
                text, once = f"{text}.narrow({dimension}, 0, 1)", once.narrow(dimension, 0, 1)
            return f"{name} = {text}.expand({shape})", once.expand(shape)
        case "offset":
            shift = layout.numbers[0] if layout.numbers else 7
            flat = f"torch.cat([{name}.new_zeros({shift}), {name}.flatten()])"
            return f"{name} = {flat}[{shift}:].view({shape})", values
        case layouts.STRIDED:
            where = layouts.placement(layout, shape)
            text, once = name, values
            for dimension, stride in enumerate(where.strides):
                if stride == 0:
                    text, once = f"{text}.narrow({dimension}, 0, 1)", once.narrow(dimension, 0, 1)
            storage = f"{name}.new_empty({where.size})"
            laid = f"{storage}.as_strided({where.stored_shape}, {where.strides}, {where.offset}).copy_({text})"
            return f"{name} = {laid}.expand({shape})", once.expand(shape)
    return "", values


_PLACED: Mapping[str, str] = {
    "bmhd": "{x}.transpose(1, 2).contiguous().transpose(1, 2)",
    "expanded_heads": "{x}[:, :1].expand({x}.shape)",
    "expanded_batch": "{x}[:1].expand({x}.shape)",
    "padded": "torch.nn.functional.pad({x}, (0, 8))[..., :-8]",
    "offset": "torch.cat([{x}.new_zeros(8), {x}.flatten()])[8:].view({x}.shape)",
}
_PACK = "[x.transpose(1, 2) for x in torch.cat([x.transpose(1, 2) for x in ({})], 2).split([{}], 2)]"


def qkv(case: Case, given: Inputs, exact: bool) -> tuple[list[str], dict[str, Tensor]]:
    """(statements that make q, k and v in the layout of the problem, their values by name)."""
    lines: list[str] = []
    tensors: dict[str, Tensor] = {}
    layout = case.problem.layout
    for place, (name, tensor) in enumerate((("q", given.q), ("k", given.k), ("v", given.v))):
        written = _written(tensor, place, exact)
        lines.append(f"{name} = {written.text}")
        tensors[name] = written.tensor
        if layout in ("expanded_heads", "expanded_batch") and name != "q" and tensor.numel():
            dimension = 1 if layout == "expanded_heads" else 0
            tensors[name] = written.tensor.narrow(dimension, 0, 1).expand(tensor.shape)
        placed = _PLACED.get(layout)
        if placed is not None and not (layout.startswith("expanded") and name == "q"):
            lines.append(f"{name} = {placed.format(x=name)}")
    names = {"packed_qkv": ("q", "k", "v"), "packed_kv": ("k", "v")}.get(layout)
    if names is not None:
        heads = ", ".join("H" if name == "q" else "Hkv" for name in names)
        lines.append(f"{', '.join(names)} = {_PACK.format(', '.join(names), heads)}")
    return lines, tensors


def captures(case: Case, given: Inputs, exact: bool) -> tuple[list[str], dict[str, Tensor]]:
    """(statements that make the captures in their layouts, their values by name)."""
    lines: list[str] = []
    tensors: dict[str, Tensor] = {}
    for place, capture in enumerate(case.captures, 3):
        name, of = capture.name, layouts.parse(capture.layout).of
        if of is not None:
            base = tensors[of]
            backwards = tuple(reversed(range(base.dim())))
            text, tensor = {
                "view_of": (f"{of}.view_as({of})", base),
                "transpose_of": (f"{of}.permute({backwards})", base.permute(backwards)),
                "last_of": (f"{of}[-1]" if base.dim() else of, base[-1] if base.dim() and base.shape[0] else base),
                "first_of": (f"{of}[0]" if base.dim() else of, base[0] if base.dim() and base.shape[0] else base),
            }[layouts.parse(capture.layout).kind]
            lines.append(f"{name} = {text}")
            tensors[name] = tensor
            continue
        written = _written(given.captures[name], place, exact)
        lines.append(f"{name} = {written.text}")
        placed, tensors[name] = _laid_out(name, capture, written.tensor)
        if placed and written.tensor.numel():
            lines.append(placed)
        if capture.requires_grad:
            lines.append(f"{name}.requires_grad_()")
    return lines, tensors
