"""L6: the rendered module."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from flexflash import RenderedKernel, lower
from flexflash.kernel import ENTRY
from flexflash.launch.host import HostLauncher
from flexflash.launch.module import load
from plain import qkv

Q, K, V = qkv(2, 4, 2, 130, 150)
TABLE = torch.randn(4, 300)
DOCUMENTS = torch.arange(150, dtype=torch.int32) // 40


def _biased(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return score + TABLE[h, q - kv] + TABLE[h, kv]


def _same_document(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return DOCUMENTS[q] == DOCUMENTS[kv]


def _mask(mod: object) -> object:
    return create_block_mask(mod, 2, 4, 130, 150, device="cpu")  # type: ignore[arg-type]


def _kernel() -> RenderedKernel:
    return lower(Q, K, V, _biased, _mask(_same_document))  # type: ignore[arg-type]


@pytest.mark.clause("L6.1")
def test_the_text_is_one_python_module() -> None:
    tree = ast.parse(_kernel().text)
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert [f.name for f in functions] == ["gather", "gather2", "score_mod", "mask_mod", ENTRY]
    for mod in functions[:-1]:
        assert [ast.unparse(d) for d in mod.decorator_list] == ["cute.jit"]
    imported = [a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names]
    assert imported == ["cutlass", "cutlass.cute"], "nothing of this package, and not the backend either"


class _Spy:
    """An attention entry that only notes what it is called with."""

    def __init__(self) -> None:
        self.positional: tuple[Tensor, ...] = ()
        self.keywords: dict[str, object] = {}

    def forward(self, *args: Tensor, **keywords: object) -> None:
        self.positional, self.keywords = args, keywords

    def block_sparse_tensors(self, *lists: Tensor, block_size: tuple[int, int]) -> object:
        return (*lists, block_size)


def _called(kernel: RenderedKernel) -> _Spy:
    spy = _Spy()
    out, lse = kernel.allocate()
    load(kernel.text).flex_flash_attention(spy, **kernel.arguments(Q, K, V, out, lse))
    return spy


@pytest.mark.clause("L6.1")
def test_the_attention_call() -> None:
    kernel = _kernel()
    assert kernel.digest == hashlib.sha256(kernel.text.encode()).hexdigest()
    spy = _called(kernel)
    assert [tuple(t.shape) for t in spy.positional] == [(2, 130, 4, 32), (2, 150, 2, 32), (2, 150, 2, 32)]
    assert [t.data_ptr() for t in spy.positional] == [Q.data_ptr(), K.data_ptr(), V.data_ptr()], "views, not copies"
    assert set(spy.keywords) == {
        "softmax_scale", "return_lse", "score_mod", "mask_mod", "out", "lse", "block_sparse_tensors", "aux_tensors",
    }  # fmt: skip
    assert spy.keywords["softmax_scale"] == 1.0 / 32**0.5
    assert spy.keywords["return_lse"] is True
    assert tuple(spy.keywords["out"].shape) == (2, 130, 4, 32)  # type: ignore[attr-defined]
    assert tuple(spy.keywords["lse"].shape) == (2, 4, 130)  # type: ignore[attr-defined]
    assert spy.keywords["block_sparse_tensors"][-1] == (128, 128)  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.clause("L6.2")
def test_text_is_equal_across_processes_and_hash_seeds() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_rendering import _kernel\n"
        "sys.stdout.write(_kernel().digest)\n"
    )
    digests = {_kernel().digest}
    for seed in ("0", "1", "4711"):
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, os.path.dirname(__file__)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        digests.add(ran.stdout)
    assert len(digests) == 1


@pytest.mark.clause("L6.2")
def test_a_loaded_text_is_a_module_that_is_known_and_of_which_256_stay() -> None:
    first = load("first = 1\n")
    assert load("first = 1\n") is first and sys.modules[first.__name__] is first
    broken = "first = undefined\n"
    with pytest.raises(NameError):
        load(broken)
    assert f"flexflash_kernel_{hashlib.sha256(broken.encode()).hexdigest()[:16]}" not in sys.modules
    for n in range(256):
        load(f"nth = {n}\n")
    assert first.__name__ not in sys.modules and load("nth = 0\n").__name__ in sys.modules
    again = load("first = 1\n")
    assert again is not first and again.first == 1
    assert sum(name.startswith("flexflash_kernel_") for name in sys.modules) <= 256


def test_identity_and_trivial_mask_render_as_none() -> None:
    def identity(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score

    everything = _mask(lambda b, h, q, kv: q.new_ones((), dtype=torch.bool))
    kernel = lower(Q, K, V, identity, everything)  # type: ignore[arg-type]
    spy = _called(kernel)
    assert spy.keywords["score_mod"] is None
    assert spy.keywords["mask_mod"] is None
    assert spy.keywords["block_sparse_tensors"] is None
    assert spy.keywords["aux_tensors"] is None
    assert "cute.jit" not in kernel.text


@pytest.mark.clause("L6.3")
def test_a_capture_is_passed_once() -> None:
    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + TABLE[h, q] + DOCUMENTS[q] + TABLE[h, kv]

    kernel = lower(Q, K, V, mod, _mask(_same_document))  # type: ignore[arg-type]
    assert kernel.buffers == ("TABLE", "DOCUMENTS")
    passed = _called(kernel).keywords["aux_tensors"]
    assert [t.data_ptr() for t in passed] == [TABLE.data_ptr(), DOCUMENTS.data_ptr()]  # type: ignore[attr-defined]
    score_text, mask_text = kernel.text.split("def mask_mod")
    assert "TABLE = aux_tensors[0]" in score_text
    assert "DOCUMENTS = aux_tensors[1]" in score_text
    assert "DOCUMENTS = aux_tensors[1]" in mask_text
    assert "aux_tensors[0]" not in mask_text, "the mask unpacks its own capture only"


@pytest.mark.clause("L6.3")
def test_a_view_of_a_capture_is_another_capture() -> None:
    view = TABLE[1:]

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + TABLE[h, q] + view[0, kv]

    assert lower(Q, K, V, mod).buffers == ("TABLE", "view")


@pytest.mark.clause("L6.3")
def test_names_of_captures_clash_with_nothing() -> None:
    cute, gather, add = torch.randn(4), torch.randn(150), torch.randn(150)

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + cute[h] + gather[kv] + add[kv]

    kernel = lower(Q, K, V, mod)
    assert kernel.buffers == ("cute_1", "gather_1", "add")
    zero = torch.zeros(2, 4, 130, 150)
    expected = cute.view(4, 1, 1) + gather + add
    torch.testing.assert_close(HostLauncher().evaluate(kernel, zero), expected.expand(2, 4, 130, 150))


@pytest.mark.clause("L6.4")
def test_another_launcher_gets_the_same_text() -> None:
    kernel = _kernel()

    class KeepsTexts(HostLauncher):
        texts: list[str] = []  # noqa: RUF012

        def run(self, kernel: RenderedKernel, arguments: Mapping[str, Tensor]) -> None:
            self.texts.append(kernel.text)
            super().run(kernel, arguments)

    for width in (1, 4):
        out, lse = kernel.allocate()
        KeepsTexts(width).run(kernel, kernel.arguments(Q, K, V, out, lse))
    assert KeepsTexts.texts == [kernel.text, kernel.text]
    assert "launcher" in kernel.text
    assert "flash_attn" not in kernel.text.replace("flash_attention", ""), "the entry point comes from the launcher"


@pytest.mark.clause("L6.5")
def test_every_vector_width_gives_the_same_bits() -> None:
    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        nested = TABLE[h, DOCUMENTS[kv] * 7 - q]
        return torch.where((q + kv) % 3 == 0, torch.tanh(score) + nested, score * TABLE[h, kv])

    kernel = lower(Q, K, V, mod, _mask(_same_document))  # type: ignore[arg-type]
    results = []
    for width in (1, 2, 4, 8):
        out, lse = kernel.allocate()
        HostLauncher(width).run(kernel, kernel.arguments(Q, K, V, out, lse))
        results.append((out, lse))
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(lse, results[0][1])


@pytest.mark.clause("L6.5")
def test_loads_of_one_row_are_not_repeated_for_each_lane() -> None:
    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return score + TABLE[h, q] * TABLE[h, q]

    text = lower(Q, K, V, mod).text
    assert text.count("TABLE[") == 1, "and a common subexpression is computed once"
    assert "gather" not in text


@pytest.mark.clause("L6.2")
def test_no_dead_statements() -> None:
    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        _ = torch.exp(score) + TABLE[h, q]
        return score * 2.0

    kernel = lower(Q, K, V, mod)
    assert "return tSrS_ssa * 2.0" in kernel.text
    assert "exp" not in kernel.text
    assert kernel.buffers == (), "a capture that nothing reads is not passed"


@pytest.mark.clause("L6.1")
def test_vector_size_option_is_rendered() -> None:
    kernel = lower(Q, K, V, _biased, kernel_options={"SCORE_MOD_VEC_SIZE": 4})
    assert "score_mod.__vec_size__ = 4" in kernel.text
    assert load(kernel.text).score_mod.__vec_size__ == 4


@pytest.mark.clause("L6.5")
def test_a_score_mod_beside_captures_takes_two_lanes() -> None:
    assert load(lower(Q, K, V, _biased).text).score_mod.__vec_size__ == 2
    plain = lower(Q, K, V, lambda score, b, h, q, kv: score * 2)
    assert not hasattr(load(plain.text).score_mod, "__vec_size__"), "without captures it is the launcher's choice"


@pytest.mark.clause("L6.2")
def test_the_mods_hash_tells_mods_apart() -> None:
    def hash_of(kernel: RenderedKernel) -> str:
        return str(load(kernel.text).score_mod.__cute_hash__)

    one = hash_of(lower(Q, K, V, lambda s, b, h, q, kv: s + 1.0))
    assert re.fullmatch("flexflash-[0-9a-f]{32}", one)
    assert one == hash_of(lower(Q, K, V, lambda s, b, h, q, kv: s + 1.0))
    assert one != hash_of(lower(Q, K, V, lambda s, b, h, q, kv: s + 2.0))
