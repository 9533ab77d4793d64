"""Renders the module: one Python text, with equal bytes for equal inputs (L6)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from . import prelude
from .codegen import ModBody
from .errors import TemplateError

PARAMETERS = {
    "score_mod": "tSrS_ssa, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors",
    "mask_mod": "b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors",
}
BLOCK_LISTS = ("KV_NUM_BLKS", "KV_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX")


@dataclass(frozen=True)
class ModText:
    """One mod as the template prints it. `buffers` are pairs (position in aux_tensors, name)."""

    name: str
    parameters: str
    lines: tuple[str, ...]
    buffers: tuple[tuple[int, str], ...]
    hash: str
    vec_size: int | None


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("flexflash"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )


def render(
    *,
    bodies: dict[str, ModBody],
    buffers: Sequence[str],
    scale: float,
    block_size: tuple[int, int] | None,
    vec_size: int | None = None,
    facts: str,
) -> str:
    """The module's text.

    `bodies` maps "score_mod" and "mask_mod" to generated bodies; a mod that is missing renders as None (L6.2).
    `buffers` are the names of the captures in the order of aux_tensors, each once (L6.3). `block_size` is (q, kv), or
    None if no block lists are walked. `vec_size` becomes `score_mod.__vec_size__`. `facts` is text for the docstring
    of the module. Raises TemplateError, which names the cause, if the template fails (L5.3).
    """
    mods = [_mod_text(name, body, buffers, vec_size) for name, body in bodies.items()]
    helpers = {helper for body in bodies.values() for helper in body.helpers}
    try:
        return (
            _environment()
            .get_template("flash_attention.py.jinja")
            .render(
                title="A FlexAttention kernel for flash-attn-4, rendered by flexflash.",
                facts=facts,
                prelude=prelude.render(helpers),
                mods=mods,
                parameters=["Q", "K", "V", "OUT", "LSE", *(BLOCK_LISTS if block_size else ()), *buffers],
                buffers=list(buffers),
                scale=repr(scale),
                score_mod="score_mod" if "score_mod" in bodies else "None",
                mask_mod="mask_mod" if "mask_mod" in bodies else "None",
                block_size=block_size,
            )
        )
    except jinja2.TemplateError as error:
        raise TemplateError(f"CuteDSL template failed: {error}") from error


def _mod_text(name: str, body: ModBody, buffers: Sequence[str], vec_size: int | None) -> ModText:
    unpacked = tuple((position, buffers[position]) for position in body.buffers)
    # flash-attn-4 uses this hash as the key of its compile cache. It covers all that the mod's machine code depends on.
    helpers = prelude.render(set(body.helpers))
    content = "\n".join([name, helpers, repr(unpacked), str(vec_size), *body.lines])
    digest = hashlib.sha256(content.encode()).hexdigest()[:32]
    own_vec_size = vec_size if name == "score_mod" else None
    return ModText(name, PARAMETERS[name], body.lines, unpacked, f"flexflash-{digest}", own_vec_size)
