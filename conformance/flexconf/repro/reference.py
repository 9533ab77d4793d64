"""Scripts for the reference lowering. The script for flash-attn-4 does not need this project; the others do."""

from __future__ import annotations

from torch import Tensor

import flexflash
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.repro.parts import parts
from flexconf.repro.script import GUARD, NEEDS_GPU, about_of, standalone, title_of
from flexconf.verdict.outcome import Outcome
from flexflash.kernel import ENTRY
from flexflash.template import BLOCK_LISTS

_FA4_CALL = "    return through_flash_attention()"

_FA4 = '''\
# The mods in CuTeDSL, as flexflash renders them, and the call.
KERNEL = r{text}


class FlashAttention:
    """What the kernel is handed to: flash-attn-4 itself."""

    forward = staticmethod(_flash_attn_fwd)

    @staticmethod
    def block_sparse_tensors(count, index, full_count, full_index, block_size):
        return BlockSparseTensorsTorch(count, index, full_count, full_index, block_size=block_size)


def through_flash_attention():
    """(out, LSE) as flash-attn-4 writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.py")
        with open(path, "w") as file:
            file.write(KERNEL)
        spec = importlib.util.spec_from_file_location("kernel", path)
        kernel = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernel)
        out = torch.empty_strided({size}, {stride}, dtype=q.dtype)
        lse = torch.empty((B, H, M), dtype=torch.float32)
        kernel.{entry}(
            FlashAttention, Q=q, K=k, V=v, OUT=out, LSE=lse,
{named}        )
        torch.cuda.synchronize()
    return out, lse'''


def fa4(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    """The script runs the rendered text with flash-attn-4 only: a failure there is not the fault of the harness."""
    kernel, names = _rendered(case, exact, width)
    held = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    if kernel.block_lists:
        names |= {name: f"block_mask.{field}" for name, field in zip(BLOCK_LISTS, held, strict=True)}
    call = _FA4.format(
        text=f"'''{kernel.text}'''",
        size=kernel.output_size,
        stride=kernel.output_stride,
        entry=ENTRY,
        named="".join(f"            {parameter}={name},\n" for parameter, name in names.items()),
    )
    guard = GUARD.format(
        more="\n    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch"
        "\n    from flash_attn.cute.interface import _flash_attn_fwd"
    )
    return standalone(
        case, subject, outcome, exact, '"cuda"', guard + NEEDS_GPU, _FA4_CALL, call,
        standard=frozenset({"importlib.util", "os", "tempfile"}),
    )  # fmt: skip


def _rendered(case: Case, exact: bool, width: int | None) -> tuple[flexflash.RenderedKernel, dict[str, str]]:
    """(kernel, the script's name of each capture by the kernel's parameter). The text is the same on CPU and GPU.

    Raises InputError if the kernel reads a tensor that is not a capture of the case.
    """
    given = parts(case, exact).given
    options: dict[str, object] = {} if width is None else {"SCORE_MOD_VEC_SIZE": width}
    kernel = flexflash.lower(given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, options)
    names = {}
    for buffer, tensor in zip(kernel.buffers, kernel.captures, strict=True):
        same = [n for n, t in given.captures.items() if _is_view(t, tensor)]
        if not same:
            raise InputError(f"{case.name}: the kernel reads {buffer}, which is none of the case's captures")
        names[buffer] = same[0]
    return kernel, names


def _is_view(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same view of the same memory."""
    facts = [(t.data_ptr(), t.dtype, t.shape, t.stride()) for t in (a, b)]
    return facts[0] == facts[1]


_PROJECT = '''\
"""{title}

{about}

It needs flexflash-conformance. Exit code: 1 while the defect is there, 0 when it is gone, 2 when it cannot be run here.
"""

import sys

try:
    from flexconf import subjects
    from flexconf.cases import catalogue
    from flexconf.workers.isolated import Isolated
    from flexconf.subjects.trial import Options
except ImportError as error:
    print(f"cannot be run: {{error}}")
    sys.exit(2)

SUBJECT = {subject!r}
CASE = r"""
{toml}"""


def main():
    why = subjects.get(SUBJECT).why_not()
    if why:
        print(f"cannot be run: {{why}}")
        return 2
    (case,) = catalogue.load_text(CASE, "repro")
    with Isolated(prepare=SUBJECT) as isolated:
        outcome = isolated.run(case, SUBJECT, Options(vector_width={width}))
    print(f"{{'gone' if outcome.ok else 'there'}}: {{outcome.stage}}/{{outcome.symptom}}: {{outcome.message}}")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
'''


def project(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    return _PROJECT.format(
        title=title_of(case, subject, outcome),
        about=about_of(outcome),
        subject=subject,
        toml=case.to_toml(),
        width=width,
    )
