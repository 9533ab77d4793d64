"""The plain kernel: on a CPU its rows are walked in a loop, by the same function that a GPU's threads run.

The catalogue on a GPU is `test_gpu_catalogue.py`'s; here is what the function does, and that it compiles for a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from flexconf.cases import catalogue
from flexconf.subjects import reference, trial
from flexconf.subjects.canary import Canary
from flexconf.subjects.trial import Options
from flexflash import InputError, flex_flash_attention, lower
from flexflash.launch import simt
from flexflash.launch.simt import SimtLauncher
from plain import assert_close, attention, grid, qkv

INF = float("inf")

# One case for each thing that the function has a line for.
CASES = (
    "identity", "alibi", "softcap", "causal", "document", "nested_gather", "dtypes_together", "stride_expanded_all",
    "lists_unsorted", "lists_reversed", "lists_per_head", "lists_full_skip_mask", "lists_empty_rows", "lists_nothing",
    "blocks_32_by_64", "huge_negative", "plus_infinity", "not_a_number", "minus_infinity_first_block",
    "infinity_minus_infinity", "large_scores", "alibi_causal@mqa8", "causal@d192_v128", "sliding_window@d256",
    "causal@scale_zero", "causal@longer_queries", "alibi_causal@longer_keys", "causal@d8", "alibi@packed_qkv",
    "causal@padded_rows", "sliding_window@fp16",
)  # fmt: skip


@pytest.mark.clause("L6.4", "L8.1", "L8.2", "L8.3", "L8.4", "L8.5")
@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    (case,) = catalogue.select(catalogue.load(), [name])
    outcome = trial.run_case(case, options=Options(repeats=2), attend=reference.through(SimtLauncher))
    assert outcome.ok, outcome.message


def _mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return 5.0 * torch.tanh(score / 5.0) - 0.1 * (q - kv).abs()


@pytest.mark.clause("L6.5")
@pytest.mark.parametrize("keys", [1, 31, 32, 33, 70])
def test_all_vector_widths_agree_bit_for_bit(keys: int) -> None:
    q, k, v = qkv(1, 4, 2, 9, keys)
    table = torch.linspace(-1, 1, keys)

    def mod(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return _mod(score, b, h, m, n) + table[n]

    results = [flex_flash_attention(q, k, v, mod, launcher=SimtLauncher(width)) for width in (1, 2, 4, 8)]
    assert_close(results[0], attention(q, k, v, mod))
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(lse, results[0][1])


@pytest.mark.clause("L8.4")
def test_the_order_of_the_lists_changes_nothing_but_rounding() -> None:
    q, k, v = qkv(1, 2, 2, 150, 500)

    def listed(order: list[int]) -> BlockMask:
        index = torch.tensor(order, dtype=torch.int32).expand(1, 1, 2, 4).contiguous()
        none = torch.zeros(1, 1, 2, dtype=torch.int32)
        return BlockMask.from_kv_blocks(
            torch.full((1, 1, 2), 4, dtype=torch.int32),
            index,
            none,
            index,
            mask_mod=lambda b, h, m, n: (m + n) % 5 != 0,
            seq_lengths=(150, 500),
        )

    keep = ((grid(1, 2, 150, 500)[2] + grid(1, 2, 150, 500)[3]) % 5 != 0).expand(1, 2, 150, 500)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        observed = flex_flash_attention(q, k, v, None, listed(order), launcher=SimtLauncher())
        assert_close(observed, attention(q, k, v, keep=keep))


@pytest.mark.clause("L6.5", "L8.4")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_block_may_begin_at_a_key_that_is_no_multiple_of_the_width(width: int) -> None:
    q, k, v = qkv(1, 2, 2, 20, 50)
    mask = create_block_mask(lambda b, h, m, n: m >= n - 25, None, None, 20, 50, device="cpu", BLOCK_SIZE=(10, 5))
    _, _, m, n = grid(1, 2, 20, 50)
    observed = flex_flash_attention(q, k, v, _mod, mask, launcher=SimtLauncher(width))
    assert_close(observed, attention(q, k, v, _mod, keep=(m >= n - 25).expand(1, 2, 20, 50)))


@pytest.mark.clause("L9.1")
@pytest.mark.parametrize("pad", [0, 8])
def test_nothing_else_is_written(pad: int) -> None:
    q, k, v = qkv(2, 4, 2, 33, 40)
    kernel = lower(q, k, v, _mod)
    expected = flex_flash_attention(q, k, v, _mod, launcher=SimtLauncher())
    out = Canary.around(kernel.output_size, kernel.output_stride, 7.0, q, pad)
    lse = Canary.around(expected[1].shape, expected[1].stride(), 7.0, expected[1])
    SimtLauncher().run(kernel, kernel.arguments(q, k, v, out.tensor, lse.tensor))
    assert torch.equal(out.tensor, expected[0])
    assert torch.equal(lse.tensor, expected[1])
    assert out.intact()
    assert lse.intact()


@pytest.mark.clause("L8.4")
def test_what_is_not_listed_or_masked_is_not_read() -> None:
    q, k, v = qkv(1, 2, 2, 130, 300)
    mask = create_block_mask(lambda b, h, m, n: n < 100, None, None, 130, 300, device="cpu")
    clean = flex_flash_attention(q, k, v, None, mask, launcher=SimtLauncher())
    k[:, :, 128:], v[:, :, 100:] = float("nan"), float("nan")
    poisoned = flex_flash_attention(q, k, v, None, mask, launcher=SimtLauncher())
    assert torch.equal(clean[0], poisoned[0])
    assert torch.equal(clean[1], poisoned[1])


@pytest.mark.clause("L9.3")
def test_a_kernel_is_compiled_once() -> None:
    q, k, v = qkv(1, 2, 2, 20, 30)
    stages: list[str] = []
    launcher = SimtLauncher(on_stage=stages.append)
    kernel = lower(q, k, v, _mod, profile=launcher.profile)
    for _ in range(3):
        out, lse = kernel.allocate()
        launcher.run(kernel, kernel.arguments(q, k, v, out, lse))
    assert stages == ["compile", "launch", "launch", "launch"]
    other = lower(q, k, v, lambda s, b, h, m, n: s + h)
    launcher.run(other, other.arguments(q, k, v, *other.allocate()))
    assert stages[4:] == ["compile", "launch"]
    longer = qkv(1, 2, 2, 20, 31)
    kernel = lower(*longer, _mod)
    launcher.run(kernel, kernel.arguments(*longer, *kernel.allocate()))
    assert stages[6:] == ["compile", "launch"], "another shape is another kernel"


@pytest.mark.clause("L8.1")
@pytest.mark.parametrize("chunk", [8, 16, 128])
def test_the_chunk_is_a_matter_of_rounding_only(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simt, "CHUNK", chunk)
    q, k, v = qkv(1, 2, 1, 5, 100)

    def rising(score: Tensor, b: Tensor, h: Tensor, m: Tensor, n: Tensor) -> Tensor:
        return score + n  # the maximum is a new one in every chunk

    assert_close(flex_flash_attention(q, k, v, rising, launcher=SimtLauncher()), attention(q, k, v, rising))


def test_a_vector_width_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="1, 2, 4 or 8, not 3"):
        SimtLauncher(3)


@pytest.mark.clause("L8.1")
def test_the_first_chunk_starts_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk has nothing to rescale: neither the sum nor the accumulator held anything before."""
    monkeypatch.setattr(SimtLauncher, "rescales", False)
    q, k, v = qkv(1, 2, 2, 3, 30)
    assert_close(flex_flash_attention(q, k, v, launcher=SimtLauncher()), attention(q, k, v))


class _Planned(Exception):
    """Stops a launch before anything is compiled."""


@pytest.mark.clause("L2.8")
@pytest.mark.parametrize("which", ["Q", "K", "V", "OUT"])
@pytest.mark.parametrize(("last", "long"), [(2**31 - 1, False), (2**31, True)])
def test_coordinates_have_64_bits_from_an_offset_on_that_32_do_not_hold(
    which: str, last: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`last` is the offset of the last element. The storage is reserved, and never touched."""

    def plan(entry: object, score_mod: object, mask_mod: object, given: simt._Plan, *_: object) -> None:
        raise _Planned(given.long)

    monkeypatch.setattr(simt.cute, "compile", plan)
    q, k, v = qkv(1, 1, 1, 2, 2, 8)
    kernel = lower(q, k, v)
    arguments = kernel.arguments(q, k, v, *kernel.allocate())
    far = torch.empty(last + 1, dtype=torch.float16).as_strided((1, 1, 2, 8), (1, 1, last - 7, 1))
    with pytest.raises(_Planned, match=str(long)):
        SimtLauncher().run(kernel, {**arguments, which: far})


_CROSS = """
import cutlass.cute as cute, torch
from cutlass.cute.runtime import make_fake_stream
import flexflash
from flexconf import inputs
from flexconf.cases import catalogue
from flexflash.launch import simt

class Compiled(Exception): pass

def stop(*arguments, **keywords):
    compile(*arguments, **keywords)
    raise Compiled

compile, cute.compile = cute.compile, stop
simt._current_stream = lambda device: make_fake_stream()
for case in catalogue.select(catalogue.load(), {names!r}):
    given = inputs.materialize(case)
    kernel = flexflash.lower(given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale)
    try:
        simt.SimtLauncher().run(kernel, kernel.arguments(given.q, given.k, given.v, *kernel.allocate()))
    except Compiled:
        print("compiled", case.name)
"""


@pytest.mark.clause("L6.4")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100a"])
def test_it_compiles_for_gpus_that_are_not_here(architecture: str) -> None:
    """For Hopper, for what came before and for what came after; in a process of its own, whose target is fixed."""
    names = ["alibi", "document", "error_function", "dtypes_together", "sliding_window@d256"]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CROSS.replace("{names!r}", repr(names))],
        env={**os.environ, "CUTE_DSL_ARCH": architecture, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split("\n")[:-1] == [f"compiled {name}" for name in sorted(names, key=_position)], ran.stderr


def _position(name: str) -> int:
    return [case.name for case in catalogue.load()].index(name)
