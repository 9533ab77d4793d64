"""The grammar of mods: what it lets through means what Python means; a refusal is one line that helps."""

from __future__ import annotations

import inspect
import time
import traceback

import pytest
import torch

from flexconf.errors import InputError
from flexconf.language import modtext
from flexconf.language.modtext import ModTextError, ScalarIndexing, check_result, compile_mod, free_names

SIZES = {"B": 2, "H": 4, "Hkv": 2, "M": 8, "N": 10, "D": 64, "Dv": 64}
BIAS = torch.arange(12.0).reshape(4, 3)


def scalars(*values: int) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.int32) for value in values]


def score(text: str, **captures: torch.Tensor) -> torch.Tensor:
    mod = compile_mod(text, "score", captures, SIZES)
    with ScalarIndexing():
        return mod(torch.tensor(0.5), *scalars(1, 2, 3, 5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score", 0.5),
        ("score + (q - kv)", -1.5),
        ("score + (q - kv) // 3", -0.5),
        ("score + (q - kv) % 3", 1.5),
        ("score + ((q - kv) >> 1)", -0.5),
        ("score + N * M - b ** 2", 79.5),
        ("torch.where((q >= kv) & (h == 2), score, -inf)", float("-inf")),
        ("x = kv - q\ny = x * x\nscore + y", 4.5),
        ("score = score * 2\nscore + 1", 2.0),
        ("torch.clamp(score, max=0.25)", 0.25),
        ("torch.div(q - kv, 3, rounding_mode='trunc') + score", 0.5),
        ("(q * 1.5).to(torch.int32) + score", 4.5),
        ("score + torch.full_like(q, 2)", 2.5),
        ("torch.nn.functional.relu(-score)", 0.0),
        ("score + (\n    q\n    + kv)  # a comment", 8.5),
        ("score + bias[h, 1]", 7.5),
        ("score + bias[h][-1]", 8.5),
        ("score + bias[-1, b]", 10.5),
        ("score * (pi > 3)", 0.5),
    ],
)
def test_means_what_python_means(text: str, expected: float) -> None:
    """Citing L7.3 and L7.4: floor division, remainder, shifts and negative indices."""
    captures = {"bias": BIAS} if "bias" in text else {}
    assert score(text, **captures).item() == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_of_python_is_one(end: str) -> None:
    """A lone carriage return within brackets ended a line for Python, and not for what put the function together."""
    assert score(f"x = (score{end}     + q * 100){end}x").item() == 300.5
    assert score(f"({end}score{end}+ q{end})").item() == 3.5
    mod = compile_mod(f"x = (score{end}     + q){end}x", "score", {}, SIZES)
    assert inspect.getsource(mod).count("\n") == 4 and "\r" not in inspect.getsource(mod)


def test_a_function_that_is_not_the_checked_one_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever puts the source together wrongly is caught before anything runs."""
    lines = [
        "def make_mod():",
        "    def score_mod(score, b, h, q, kv):",
        "        return score",
        "    return score_mod",
    ]
    monkeypatch.setattr("flexconf.language.modtext.forms.source", lambda *_: "\n".join(lines))
    assert score("score").item() == 0.5
    with pytest.raises(AssertionError, match="what was checked is not what would run"):
        compile_mod("score + q", "score", {}, SIZES)


@pytest.mark.parametrize("code", [0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029, 0x00, 0x1A, 0x7F, 0xD800])
@pytest.mark.parametrize("text", ["score {}+ q", "(score # a comment{}\n + q)", "score{}"])
def test_what_ends_a_line_for_some_is_refused(code: int, text: str) -> None:
    """`str.splitlines` and the tokenizer disagree about these; the refusal names the character."""
    with pytest.raises(ModTextError, match=f"U\\+{code:04X}|null character"):
        compile_mod(text.format(chr(code)), "score", {}, SIZES)


REFUSED = {
    "score +": "line 1",
    "score * (q": "never closed",
    "": "the identity",
    "x = score": "last line must be an expression",
    "score + bais[h, q]": "did you mean 'bias'",
    "score + slopes": "unknown name 'slopes'",
    "score + q_idx": "write q",
    "abs(score)": "torch.abs(x)",
    "min(q, kv) + score": "torch.minimum(x, y)",
    "exp(score)": "write torch.exp(...)",
    "math.exp(score)": "torch.exp(x)",
    "torch.expp(score)": "did you mean torch.exp",
    "torch.load('x')": "not among the operations",
    "torch.ops.aten.add(score, 1)": "not among the operations",
    "score.exp()": "write torch.exp(x)",
    "score.item()": "the tensor itself",
    "score.float()": ".to(torch.float32)",
    "score.T": "attribute .T",
    "score.__class__": "attribute .__class__",
    "().__class__": "attribute",
    "score.to(torch.float8)": "not a dtype",
    "score.to('cuda')": "not a dtype",
    "torch.where(q > kv, score)": "takes 3 arguments, not 2",
    "torch.div(q, 2, rounding_mode='up')": "'floor', 'trunc'",
    "torch.exp(score, out=score)": "does not take out",
    "torch.exp(*score)": "unpacking",
    "torch.tensor(1.0)": "write the number",
    "torch": "no value",
    "torch.exp": "call it",
    "torch.inf + score": "write inf",
    "score if q > kv else 0": "torch.where(c, x, y)",
    "score * (q > kv and kv > 0)": "(x) & (y)",
    "score * (not q)": "write ~(x)",
    "score * (0 <= q < kv)": "chained comparison",
    "score * (q in kv)": "'is' and 'in'",
    "if q > kv:\n    score = 0\nscore": "torch.where(condition, x, y)",
    "for i in q: pass": "no loops",
    "while True: pass": "no loops",
    "import os\nscore": "nothing can be imported",
    "return score": "leave out 'return'",
    "def f(): pass\nscore": "only the body",
    "score += 1\nscore": "in-place",
    "x, y = q, kv\nscore": "one name per line",
    "bias[0] = 1\nscore": "one name per line",
    "N = 3\nscore": "cannot be assigned",
    "bias = 3\nscore": "cannot be assigned",
    "lambda score: score": "without 'lambda'",
    "[x for x in q]": "no loops",
    "score + bias[h]": "still has 1 dimension; reduce every one, such as (score + bias[h]).sum(-1)",
    "bias[h]": "still has 1 dimension; index every one, such as bias[h, q]",
    "bias": "still has 2 dimensions; index every one, such as bias[q, kv]",
    "score + (bias[h] * bias).sum(-1)": "still has 1 dimension",
    "score + (bias[h] * bias[h].unsqueeze(-1)).sum(0).amax(2)": "amax takes a dimension from -1 to 0",
    "score + bias[h].unsqueeze()": "unsqueeze needs a dimension",
    "score + bias[h].sum(0, 1)": "with one number, such as x.sum(-1)",
    "score + bias[h].sum(keepdim=True)": "with one number",
    "score + bias[h].sum(h)": "sum takes a dimension from -1 to 0",
    "score + bias[h].pow()": "write x.pow(2)",
    "score + (bias[h] + bias[:, 0])": "index with scalars only",
    "score + bias[h, q, kv]": "has 2 dimensions and is indexed with 3",
    "score + bias[h, :]": "no slices",
    "score + bias[h, None]": "no slices",
    "score + bias[h, 0.5]": "an index is an integer",
    "score + N[0]": "is a number",
    "score + 'a'": "only numbers",
    "score + 1j": "only numbers",
    "score + 9 ** 9 ** 9": "out of range",
    "score + M ** M ** M": "out of range",
    "score + (1 << 1000)": "shift by 1000",
    "score + 10000000000000000000000": "64 bits",
    "score + q // 0": "division by zero",
    "score + 1 / (N - 10)": "division by zero",
    "score + (-8) ** 0.5": "complex",
    "score @ score": "matrices",
    "f'{score}'": "no strings",
    "(x := score)": "own line",
    "await score": "Await",
    "open('x')": "open() cannot be called",
    "eval('score')": "eval() cannot be called",
    "__import__('os')": "cannot be called",
    "os.system('x')": "the methods are .to(torch.<dtype>), .pow(), .unsqueeze() and reductions",
    "score.__class__.__bases__": "attribute",
    "bias.storage()": "the methods are .to",
    "torch.nn.functional.softmax(score)": "not among the operations",
    "torch.cuda.synchronize()": "not among the operations",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refusals_help_in_one_line(text: str) -> None:
    with pytest.raises(ModTextError) as caught:
        compile_mod(text, "score", {"bias": BIAS}, SIZES)
    message = str(caught.value)
    assert REFUSED[text] in message
    assert "\n" not in message
    assert len(message) < 300
    assert isinstance(caught.value, InputError)


BOMBS = {
    "parentheses": "(" * 1900 + "score" + ")" * 1900,
    "brackets": "bias[" * 700 + "q" + "]" * 700,
    "minus": "-" * 3900 + "score",
    "spaced minus": "- " * 1900 + "score",
    "not": "not " * 900 + "score",
    "power": "2" + "**2" * 1200,
    "sum": "+".join(["q"] * 1900),
    "calls": "torch.abs(" * 350 + "score" + ")" * 350,
    "unclosed": "(" * 3999,
    "deep line": "\n".join(f"x{i} = score" for i in range(250)) + "\nscore",
    "attributes": "score" + ".to" * 1000,
    "comparisons": "q" + "<q" * 1500,
    "indentation": "\n".join(" " * i + "if q:" for i in range(80)),
    "five thousand": "(" * 5000 + "score" + ")" * 5000,
    "hundred thousand": "score + " * 12500 + "score",
    "hundred thousand minus": "-" * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_fast(name: str) -> None:
    begin = time.process_time()  # this process's own: what else runs here has no part in it
    for attempt in (
        lambda: compile_mod(BOMBS[name], "score", {"bias": BIAS}, SIZES),
        lambda: free_names(BOMBS[name]),
    ):
        with pytest.raises(ModTextError):
            attempt()
    assert time.process_time() - begin < 1.0


def test_long_sums_are_no_bombs() -> None:
    assert score(" + ".join(["score"] * 150)).item() == 75.0


def test_a_mask_has_no_score() -> None:
    with pytest.raises(ModTextError, match="a mask_mod has no score"):
        compile_mod("score > 0", "mask", {}, SIZES)


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        ("mask", "q - kv", "the result is int32, but a mask is bool"),
        ("mask", "q / 2", "the result is float32"),
        ("mask", "M > N", "Python value False"),
        ("score", "q > kv", "the result is bool, but a score is a float"),
        ("score", "1.0", "torch.full_like"),
        ("score", "score + small[half[q]]", "PyTorch refuses it"),
        ("score", "torch.where(score, 1.0, 2.0)", "PyTorch refuses it"),
    ],
)
def test_results_that_are_no_result(kind: modtext.Kind, text: str, hint: str) -> None:
    captures = {"small": torch.ones(4), "half": torch.ones(4, dtype=torch.float16)}
    mod = compile_mod(text, kind, captures, SIZES)
    with pytest.raises(ModTextError, match=hint) as caught:
        check_result(mod, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["score", "score + bias[h, q]", "score.to(torch.float64)", "bias[-1][b] * score"])
def test_results_that_are(text: str) -> None:
    check_result(compile_mod(text, "score", {"bias": BIAS}, SIZES), "score")


def test_free_names_are_the_captures() -> None:
    text = "d = q - kv\nscore + bias[table[d], h] * torch.exp(scale) + N + inf"
    assert free_names(text) == {"bias", "table", "scale"}
    assert free_names("q >= kv") == frozenset()
    assert free_names("bias.to(torch.int32) + exp(score) + os.system(x) + score.exp()") == {"bias", "x"}


def test_the_function_is_real() -> None:
    """Captures are closure cells, the source is at hand for tracebacks, the signature is FlexAttention's."""
    mod = compile_mod("d = q - kv\nscore + bias[h, d] * N", "score", {"bias": BIAS}, SIZES, "mine")
    assert mod.__code__.co_freevars == ("N", "bias")
    assert list(inspect.signature(mod).parameters) == ["score", "b", "h", "q", "kv"]
    assert "        return score + bias[h, d] * N\n" in inspect.getsource(mod)
    assert "mine" in mod.__code__.co_filename
    with pytest.raises(IndexError) as caught, ScalarIndexing():
        mod(torch.tensor(0.5), *scalars(0, 9, 0, 0))
    assert "return score + bias[h, d] * N" in "".join(traceback.format_exception(caught.value))


def test_equal_texts_make_equal_sources() -> None:
    first, second = (compile_mod("score + N", "score", {}, SIZES, "same") for _ in range(2))
    assert first.__code__.co_filename == second.__code__.co_filename


@pytest.mark.parametrize("name", ["q", "score", "N", "torch", "inf", "lambda", "1x", "score_mod", "_x", "min"])
def test_names_that_captures_cannot_have(name: str) -> None:
    with pytest.raises(ModTextError, match="cannot be called"):
        compile_mod("score", "score", {name: BIAS}, SIZES)


def test_every_operation_exists() -> None:
    for dotted in modtext.OPERATIONS:
        found: object = torch
        for part in dotted.split(".")[1:]:
            found = getattr(found, part)
        assert callable(found), dotted
