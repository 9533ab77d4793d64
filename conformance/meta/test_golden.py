"""The goldens: that nothing in the folder can change unseen, and that what is kept is robust."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flexconf import inputs
from flexconf.cases import catalogue
from flexconf.cli import golden as command
from flexconf.errors import InputError
from flexconf.golden import entry, folder
from flexconf.golden.entry import Golden
from flexconf.oracles import plain64

ROOT = Path(__file__).parents[2]
HERE = ROOT / "golden"
GROUPS = {"L2", "L4", "L5", "L6", "L7", "L8", "L9"}  # of which there are cases; the others are about the text alone


@pytest.fixture(scope="module")
def few() -> dict[str, Golden]:
    """Three goldens, computed here."""
    return folder.generate([c for c in folder.must_pass() if c.name in ("alibi", "causal", "document")])


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The checkout's folder, to be spoilt."""
    place = tmp_path / "golden"
    shutil.copytree(HERE, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def test_the_list_is_long_enough_and_about_every_group() -> None:
    cases = folder.must_pass()
    assert len(cases) >= 60
    groups = {clause.partition(".")[0] for case in cases for clause in case.clauses}
    assert groups >= GROUPS, groups
    assert sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()) < 16 * 2**20


def test_the_folder_is_whole() -> None:
    assert folder.verify(HERE) == []


def test_some_of_it_is_what_would_be_written_now(few: dict[str, Golden]) -> None:
    assert len(few) == 3
    for name, new in few.items():
        assert folder.read(HERE, name).to_bytes() == new.to_bytes(), name


def _flip(path: Path, at: int = 200) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(bytes(data))


def _swap_entries(place: Path) -> None:
    manifest = json.loads((place / "manifest.json").read_text())
    listed = manifest["goldens"]
    listed["alibi"], listed["causal"] = listed["causal"], listed["alibi"]
    (place / "manifest.json").write_text(folder._text(manifest))


def _swap_files(place: Path) -> None:
    a, b, c = (place / "cases" / f"{n}.safetensors" for n in ("alibi", "causal", "kept"))
    a.rename(c), b.rename(a), c.rename(b)


def _change_a_digit(place: Path) -> None:
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(text.replace('"rows": 1', '"rows": 2', 1))


def _forget_an_entry(place: Path) -> None:
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["goldens"]["alibi"]
    (place / "manifest.json").write_text(folder._text(manifest))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of a golden": (lambda p: _flip(p / "cases/alibi.safetensors"), "cases/alibi.safetensors"),
    "its first byte": (lambda p: _flip(p / "cases/alibi.safetensors", 0), "cases/alibi.safetensors"),
    "its last byte": (lambda p: _flip(p / "cases/causal.safetensors", -1), "cases/causal.safetensors"),
    "a digit of the manifest": (_change_a_digit, "manifest.json"),
    "a space in the manifest": (
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text() + " "),
        "manifest.json",
    ),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json"),
    "the readme": (lambda p: _flip(p / "README.md", 30), "README.md"),
    "the script": (lambda p: _flip(p / "regenerate.py", 30), "regenerate.py"),
    "a missing file": (lambda p: (p / "cases/alibi.safetensors").unlink(), "cases/alibi.safetensors"),
    "an extra golden": (
        lambda p: shutil.copy(p / "cases/alibi.safetensors", p / "cases/other.safetensors"),
        "cases/other.safetensors",
    ),
    "an extra file": (lambda p: (p / "notes.txt").write_text("x"), "notes.txt"),
    "swapped entries": (_swap_entries, "cases/alibi.safetensors"),
    "swapped files": (_swap_files, "cases/causal.safetensors"),
    "an entry left out": (_forget_an_entry, "'alibi'"),
    "a truncated file": (lambda p: os.truncate(p / "cases/alibi.safetensors", 100), "cases/alibi.safetensors"),
    "an empty file": (lambda p: os.truncate(p / "cases/alibi.safetensors", 0), "cases/alibi.safetensors"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_whatever_is_spoilt_is_named(how: str, copied: Path) -> None:
    spoil, named = SPOILT[how]
    spoil(copied)
    problems = folder.verify(copied)
    assert problems and any(named in problem for problem in problems), problems
    with pytest.raises(command.typer.Exit) as ended:
        command.verify(copied)
    assert ended.value.exit_code == 1


def test_every_byte_counts(tmp_path: Path, few: dict[str, Golden], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of a small manifest, and a sample of a golden's."""
    monkeypatch.setattr(folder, "must_pass", lambda: [c for c in MUST if c.name in few])
    folder.write(tmp_path, few)
    assert folder.verify(tmp_path) == []
    for name, step in (("manifest.json", 1), ("cases/alibi.safetensors", 997)):
        path = tmp_path / name
        whole = path.read_bytes()
        for at in range(0, len(whole), step):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            assert folder.verify(tmp_path), f"byte {at} of {name}"
        path.write_bytes(whole)


MUST = folder.must_pass()


def test_a_write_that_is_killed_is_noticed_or_has_not_begun(
    tmp_path: Path, few: dict[str, Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "must_pass", lambda: [c for c in MUST if c.name in few])
    folder.write(tmp_path, few)
    before = {p.name: p.read_bytes() for p in (tmp_path / "cases").iterdir()}
    other = dict(few, causal=few["alibi"])
    replaced = Path.replace

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write(tmp_path, other)
    monkeypatch.setattr(Path, "replace", replaced)
    assert folder.verify(tmp_path), "the new files with the old manifest are taken for whole"
    folder.write(tmp_path, few)
    assert folder.verify(tmp_path) == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "cases").iterdir()} == before


def test_nothing_is_written_when_the_oracles_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly_off(*arguments: object, **keywords: object) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = attention(*arguments, **keywords)
        out[0, 0, 0, 0] += 0.1
        return out, lse

    attention = plain64.attention
    monkeypatch.setattr(plain64, "attention", slightly_off)
    with pytest.raises(InputError, match="the oracles disagree about 1 cases, and nothing is written: alibi"):
        folder.generate([c for c in MUST if c.name == "alibi"])


def test_what_changed_is_shown(few: dict[str, Golden]) -> None:
    old = few["alibi"]
    tensors = {name: t.clone() for name, t in old.tensors.items()}
    tensors["out"][0, 0] += 1.0
    new = Golden(**{**old.__dict__, "tensors": tensors})
    found = entry.difference(old, new)
    assert found["case"] == "alibi" and "out" in found["changed"]
    assert not entry.difference(old, old)


@pytest.mark.parametrize("scale", [1 + 2**-45, 1 - 2**-44])
def test_the_last_bits_of_float64_do_not_matter(scale: float, few: dict[str, Golden]) -> None:
    """What another machine's float64 may differ by leaves no trace, but where it crosses a line of the grid."""
    case = next(c for c in MUST if c.name == "alibi")
    _, certified, _ = entry.compute(case)
    moved = dataclasses.replace(certified, out=certified.out * scale, lse=certified.lse * scale)
    kept, again = entry._kept(certified), entry._kept(moved)
    differing = sum(int((kept[name] != again[name]).sum()) for name in kept)
    assert differing <= 2


def test_a_golden_says_what_the_case_is_about(few: dict[str, Golden]) -> None:
    for name, golden in few.items():
        case = next(c for c in MUST if c.name == name)
        assert golden.case_digest == case.digest()
        assert golden.inputs == inputs.materialize(case).digests
        assert golden.elements > 0
        assert all(bool(t.isfinite().all()) for n, t in golden.tensors.items() if n.endswith("bound"))
        assert not math.isnan(float(golden.tensors["out"].abs().sum()))


def test_the_script_is_the_command(tmp_path: Path) -> None:
    """`golden/regenerate.py` stands alone; a bad flag is one line and exit code 2."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "regenerate.py", "--frobnicate"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'impl'}:{ROOT / 'conformance'}"},
        check=False,
    )
    assert said.returncode == 2 and said.stderr.count("\n") == 1, said.stderr


def test_an_installed_package_looks_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its catalogue lies within the package, where no goldens are."""
    assert folder.default() == HERE
    monkeypatch.setattr(catalogue, "folder", lambda: tmp_path / "flexconf" / "_cases")
    assert folder.default() == Path("golden")
