"""Cases as data: what they accept, what they refuse, their digest and their TOML form."""

from __future__ import annotations

import tomllib

import pytest

from flexconf.cases import catalogue
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.language import layouts
from flexconf.language.arithmetic import evaluate

SYMBOLS = Problem(B=2, H=4, Hkv=2, M=300, N=200).symbols()


def refusal(function: object, *arguments: object, **named: object) -> str:
    assert callable(function)
    with pytest.raises(InputError) as caught:
        function(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_shape_of_six_and_of_seven_numbers() -> None:
    assert Problem.parse_shape("2,4,2,300,200,64") == Problem(2, 4, 2, 300, 200, 64, 64)
    assert Problem.parse_shape("2, 4, 2, 300, 200, 64, 128", dtype="float16").Dv == 128
    assert Problem.parse_shape("0,1,1,0,0,8").M == 0


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2,4,2,300,200", "write B,H,Hkv,M,N,D"),
        ("2,4,2,300,200,x", "write B,H,Hkv,M,N,D"),
        ("2,4,2,300,-200,64", "write B,H,Hkv,M,N,D"),
        ("2,4,3,300,200,64", "H=4 query heads do not divide into Hkv=3"),
        ("2,4,0,300,200,64", "Hkv"),
        ("2,4,2,300,200,20", "multiple of 8"),
        ("2,4,2,300,200,264", "from 8 to 256"),
        ("9999,4,2,3000,2000,64", "at most"),
        ("99999999999999999,4,2,3000,2000,64", "write B,H,Hkv"),
    ],
)
def test_shapes_that_are_refused(text: str, hint: str) -> None:
    assert hint in refusal(Problem.parse_shape, text)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"dtype": "float32"}, "'float32'; did you mean 'float16'"),
        ({"dtype": "bf16"}, "did you mean 'bfloat16'"),
        ({"layout": "packed"}, "layout"),
        ({"layout": "packed_qkv", "M": 3, "N": 4}, "M == N"),
        ({"layout": "packed_kv", "Dv": 128}, "D == Dv"),
        ({"qkv": "gaussian"}, "normal"),
        ({"scale": float("nan")}, "finite"),
        ({"B": True}, "whole number"),
        ({"M": 1.5}, "whole number"),
    ],
)
def test_problems_that_are_refused(changes: dict[str, object], hint: str) -> None:
    assert hint in refusal(Problem, **changes)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("bias=H,M+N:float32", Capture("bias", ("H", "M+N"), "float32", "normal")),
        ("t=scalar:float64:uniform(0, 1)", Capture("t", (), "float64", "uniform(0, 1)")),
        ("t=:int8", Capture("t", (), "int8", "bits")),
        ("d=max(M, N):int32:documents(3)", Capture("d", ("max(M, N)",), "int32", "documents(3)")),
        ("x=2,3:bool:bool(0.5):permuted(1, 0)", Capture("x", (2, 3), "bool", "bool(0.5)", "permuted(1, 0)")),
        ("g=H:float16:::requires_grad", Capture("g", ("H",), "float16", requires_grad=True)),
    ],
)
def test_buffers(spec: str, expected: Capture) -> None:
    assert Capture.parse(spec) == expected
    assert Capture.parse(f"{expected.name}={expected.spec()}") == expected


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("bias", "no '='"),
        ("bias=H", "write NAME=SHAPE:DTYPE"),
        ("bias=H:float32:normal:contiguous:yes", "requires_grad, not 'yes'"),
        ("bias=H:floot32", "did you mean 'float32'"),
        ("bias=H:complex64", "is 'complex64'"),
        ("kv=H:float32", "cannot be called 'kv'"),
        ("bias=1,1,1,1,1:float32", "0 to 4"),
        ("bias=H:float32:normal:sideways", "the layouts are"),
        ("bias=H:int32:bits:contiguous:requires_grad", "only a float"),
    ],
)
def test_buffers_that_are_refused(spec: str, hint: str) -> None:
    assert hint in refusal(Capture.parse, spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("bias=H,M+K:float32", "unknown symbol 'K'"),
        ("bias=H,hkv:float32", "did you mean Hkv"),
        ("bias=H,M-N-N:float32", "-100"),
        ("bias=M/N:float32", "1.5"),
        ("bias=M//(N-200):float32", "no value"),
        ("bias=M*M,N*N:float32", "elements"),
        ("bias=H+:float32", "not arithmetic"),
        ("bias=__import__(1):float32", "only numbers"),
        ("bias=" + "(" * 90 + "H" + ")" * 90 + ":float32", "too long or too deeply nested"),
        ("bias=H:float32:gauss", "the vocabulary is"),
        ("bias=H:float32:uniform(1)", "takes 2 arguments"),
        ("bias=H:float32:normal:view_of(other)", "must come before"),
    ],
)
def test_buffers_that_a_problem_refuses(spec: str, hint: str) -> None:
    capture = Capture.parse(spec)
    problem = Problem(2, 4, 2, 300, 200)
    assert hint in refusal(Case, "c", score_mod="score + bias[0]", captures=(capture,), problem=problem)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("M+N-1", 499),
        ("max(M, N)//7", 42),
        ("-2**3", -8),
        ("2 ** -1", 0.5),
        ("-inf", float("-inf")),
        ("min(1, H)", 1),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    assert evaluate(text, SYMBOLS, "size") == value


@pytest.mark.parametrize("text", ["", "9**9**9", "M if N else H", "True", "'a'", "len(M)", "M.real", "(-8)**0.5", "~M"])
def test_arithmetic_that_is_refused(text: str) -> None:
    refusal(evaluate, text, SYMBOLS, "size")


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"score_mod": "score + slopes[h]"}, "give it as a buffer: slopes=SHAPE:DTYPE"),
        ({"score_mod": "score + kvv"}, "did you mean 'kv'"),
        ({"score_mod": "score +"}, "case 'c': score_mod: line 1"),
        ({"captures": (Capture("bias", ()),)}, "no mod reads it"),
        ({"captures": (Capture("x", ()), Capture("x", ())), "score_mod": "score + x"}, "given twice"),
        ({"seed": -1}, "seed"),
        ({"expect": "refused"}, "refused:"),
        ({"clauses": ("7.4",)}, "is not a clause"),
        ({"reason_contains": "x"}, "needs expect"),
        ({"name": "no name"}, "letters, digits"),
        ({"block": BlockSpec(q=64)}, "needs a mask_mod"),
    ],
)
def test_cases_that_are_refused(fields: dict[str, object], hint: str) -> None:
    assert hint in refusal(Case, **({"name": "c"} | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "lists"},
        {"pattern": "dense"},
        {"kind": "lists", "pattern": "sparse"},
        {"q": 0},
        {"kind": "list"},
    ],
)
def test_blocks_that_are_refused(fields: dict[str, object]) -> None:
    refusal(BlockSpec, **fields)


def test_the_digest_is_of_what_runs() -> None:
    case = Case("c", about="x", score_mod="score * 2.0")
    assert case.digest() == "7fdc0e5067a952e710085e1e0edb1b36330548cd5043886f1f9bc2c983061c62"
    assert case.replace(about="y", clauses=("L1.1",)).digest() == case.digest()
    assert case.replace(seed=1).digest() != case.digest()


def test_kinds() -> None:
    kinds = [Case("c", score_mod=s, mask_mod=m).kind for s in (None, "score") for m in (None, "q > kv")]
    assert kinds == ["plain", "mask_mod", "score_mod", "combination"]


def test_toml_and_back() -> None:
    case = Case(
        "a@b",
        about='a "quoted" word\\',
        score_mod="x = score\nx + bias[h, -1] * t",
        mask_mod="q >= kv",
        captures=(Capture.parse("bias=H,M+N:float16:normal:transposed"), Capture.parse("t=scalar:int8")),
        problem=Problem(M=200, N=300, scale=0.25),
        block=BlockSpec(kind="lists", partial=((0, 1), ()), full=((2,), (0,))),
        seed=2**40,
        clauses=("L7.4",),
        source="nowhere",
        expect="refused:render",
        reason_contains="no",
    )
    text = case.to_toml()
    assert list(tomllib.loads(text)) == ["a@b"]
    assert catalogue.load_text(text) == [case]


def test_every_case_of_the_catalogue_survives_toml() -> None:
    for case in catalogue.load():
        (again,) = catalogue.load_text(case.to_toml())
        assert again == case
        assert again.digest() == case.digest()


def test_layouts_are_parsed() -> None:
    assert layouts.parse("permuted(2, 0, 1)").numbers == (2, 0, 1)
    assert layouts.parse("view_of(bias)").of == "bias"
    for wrong in ("view_of()", "stepped(0)", "stepped(1, 2)", "contiguous(1)", "offset(-1)", "", "x(y", "strided"):
        refusal(layouts.parse, wrong)
