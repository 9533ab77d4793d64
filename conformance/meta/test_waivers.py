"""Waivers as data: what a file may say, and what each mistake is answered with."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from bundles import environment

from flexconf.cases import catalogue
from flexconf.errors import InputError
from flexconf.gate import waivers
from flexconf.gate.model import Change
from flexconf.gate.waivers import CHANGES, load_text

TABLE = """
[[waiver]]
name = "one"
cases = ["alibi", "causal@*"]
subjects = ["reference.fa4", "torch-*"]
changes = ["out of bound", "slower"]
reason = "We ship it."
link = "https://example.com/1"
expires = 2030-01-31
versions = { torch = "==2.13.*", flash-attn-4 = ">=4.0.0b36" }
device = "9.*"
driver = ">=580,<595"
"""


def test_a_waiver_is_read() -> None:
    (w,) = load_text(TABLE)
    assert (w.name, w.cases, w.changes) == ("one", ("alibi", "causal@*"), ("out of bound", "slower"))
    assert w.expires == datetime.date(2030, 1, 31) and w.versions["torch"] == "==2.13.*"
    assert not w.expired(datetime.date(2030, 1, 31)) and w.expired(datetime.date(2030, 2, 1))
    assert w.names("causal@gqa2", "torch-flash") and not w.names("causal", "torch-flash")
    assert not w.names("alibi", "reference.host")


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (environment(), ""),
        (environment(torch="2.14.0rc1"), "it is about torch ==2.13.*, and the candidate has 2.14.0rc1"),
        (environment(flash_attn_4=None), "flash-attn-4 is not installed"),
        (environment("595.10"), "it is about driver >=580,<595, and the candidate has 595.10"),
        (environment("R580-custom"), "it is about driver >=580,<595, and the candidate has R580-custom"),
        (environment(gpus=[]), "it is about compute capability 9.*, and the candidate has no GPU"),
        ({}, "torch is not installed"),
    ],
)
def test_its_scope_is_the_candidate_s(candidate: dict[str, object], says: str) -> None:
    (w,) = load_text(TABLE)
    assert w.why_not(candidate) == says


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cases =", "case =", "unknown key 'case'; did you mean 'cases'?"),
        ('reason = "We ship it."', "", "reason is missing; a waiver has name, cases,"),
        ("expires = 2030-01-31", "", "expires is missing"),
        ('link = "https://example.com/1"', "", "link is missing"),
        ("2030-01-31", '"2030-01-31"', "expires must be a date without quotes, such as 2030-01-31"),
        ("2030-01-31", "2030-01-31T00:00:00", "expires must be a date without quotes"),
        ("2030-01-31", "2030-04-31", "not valid TOML"),
        ("2030-01-31", "20300131", "expires must be a date"),
        ("https://example.com/1", "issue 1", "must be the address of an issue"),
        ('"out of bound"', '"out of bounds"', "did you mean 'out of bound'?"),
        ('"out of bound"', '"missing"', "a missing result cannot be waived; record the bundle again"),
        ('"out of bound"', '"identical"', "is no change that can be waived"),
        ('"reference.fa4"', '"reference.fa5"', "names no subject; did you mean 'reference.fa4'?"),
        ('["alibi", "causal@*"]', '"alibi"', "cases must be a list of texts"),
        ('["alibi", "causal@*"]', "[]", "cases is missing"),
        ('"We ship it."', "3", "reason must be a text"),
        ("torch =", "torhc =", "did you mean 'torch'?"),
        ('"==2.13.*"', '"2.13"', "is no specifier, such as"),
        ('"==2.13.*"', "2", "is no specifier, such as"),
        ('{ torch = "==2.13.*", flash-attn-4 = ">=4.0.0b36" }', '"2.13"', "versions must be a table"),
        ('">=580,<595"', '"580"', "driver = '580' is no specifier"),
        ('">=580,<595"', "580", "driver must be a text"),
        ('"9.*"', '"H200"', "must be a glob of compute capabilities, such as '9.*'"),
        ("[[waiver]]", "[waiver]", "a waiver is a [[waiver]] table"),
        ("[[waiver]]", "[[waivers]]", "a waiver is a [[waiver]] table; there is waivers"),
        ("[[waiver]]", "[[waiver]", "not valid TOML"),
        ("[[waiver]]", "waiver = [3]\n[other]", "a waiver is a [[waiver]] table"),
    ],
)
def test_every_mistake_is_one_sentence(old: str, new: str, says: str) -> None:
    assert old in TABLE
    with pytest.raises(InputError) as raised:
        load_text(TABLE.replace(old, new, 1), "file.toml")
    assert says in str(raised.value) and str(raised.value).startswith("file.toml: ") and "\n" not in str(raised.value)


def test_names_are_told_apart() -> None:
    with pytest.raises(InputError, match="two waivers are named 'one'"):
        load_text(TABLE + TABLE)


def test_the_shipped_file_waives_nothing_and_its_example_is_sound() -> None:
    assert waivers.load() == ()
    lines = waivers.default().read_text(encoding="utf-8").splitlines()
    start = lines.index("# [[waiver]]")
    (example,) = load_text("\n".join(line.removeprefix("# ") for line in lines[start:]))
    assert example.changes == ("slower",)
    assert not any(case.name == "waiver" for case in catalogue.load())


def test_an_empty_file_is_no_mistake_and_a_missing_one_is(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert waivers.load(tmp_path / "empty.toml") == ()
    with pytest.raises(InputError, match="no such file; an empty one says that nothing is waived"):
        waivers.load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot be read"):
        waivers.load(tmp_path / "bytes.toml")
    with pytest.raises(InputError, match="cannot be read"):
        waivers.load(tmp_path)


def test_what_can_be_waived() -> None:
    assert "slower" in CHANGES and str(Change.WRONG) in CHANGES
    assert not {str(c) for c in (Change.IDENTICAL, Change.DRIFT, Change.FIXED, Change.MISSING)} & {*CHANGES}
