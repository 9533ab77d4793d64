"""Recording a bundle: killed and resumed, damaged and read, repeated where it must be; fingerprints."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gated
import pytest

from flexconf.cases import catalogue
from flexconf.checks.attribution import Attribution
from flexconf.cli.main import main
from flexconf.errors import InputError
from flexconf.gate import compare, evidence, files, fingerprint, plan, reading, record, recording, shrink
from flexconf.gate.bundle import Bundle
from flexconf.gate.fingerprint import Fingerprint
from flexconf.gate.model import Decision, Verdict
from flexconf.gate.recording import TIMED
from flexconf.golden import folder as goldens
from flexconf.machine import environment
from flexconf.machine.files import PART, write
from flexconf.runs import expectations
from flexconf.verdict.outcome import Outcome, Stage, Symptom, merge

NAMES = ["alibi", "causal", "softcap", "document", "identity", "roots"]
CASES = [catalogue.select(catalogue.load(), [name])[0] for name in NAMES]
GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that is being worked on may record here."""
    monkeypatch.setattr(environment, "checkout", lambda: None)


def make(root: Path, work: record.Work = gated.right, cases: Any = CASES, **options: Any) -> recording.Recording:
    return record.record(root, cases, ["reference.host"], workers=1, work=work, prepare=gated.nothing, **options)


def said(bundle: Bundle) -> dict[Any, Any]:
    """What a bundle comes to, without times."""
    return {
        key: [(str(o.symptom), o.digests, bool(o.launches)) for o in r.attempts] for key, r in bundle.records.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle, with the evidence of a failure; not to be changed."""
    root = tmp_path_factory.mktemp("gate") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "checkout", lambda: None)
        patch.setattr(evidence.attribution, "in_worker", lambda *a: Attribution("codegen", "It is so."))
        make(root, gated.once_wrong)
    return root


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle in which everything is right; not to be changed."""
    root = tmp_path_factory.mktemp("gate") / "right"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "checkout", lambda: None)
        make(root)
    return root


def test_what_is_recorded_is_read(whole: Path) -> None:
    bundle = reading.read(whole)
    assert bundle.problems == ()
    assert [c.case for c in bundle.cases] == [c.name for c in CASES] and bundle.subjects == ("reference.host",)
    assert set(bundle.records) == {(name, "reference.host") for name in NAMES}
    assert bundle.side.results == 5 * 2 + 3
    for (name, subject), found in bundle.records.items():
        rows = bundle.rows(name, subject)
        assert rows is not None and rows["out"].shape == (6, 4) and rows["rows"].shape == (6, 3)
        assert all(bool(o.launches) for o in found.attempts[1:2]) is (name != "causal")
    shown = bundle.records["causal", "reference.host"].evidence
    assert (shown.layer, shown.sentence) == ("codegen", "It is so.") and shown.map and "causal" in shown.repro
    assert bundle.rows("no_such_case", "reference.host") is None


def test_a_case_that_fails_is_run_twice_more(whole: Path) -> None:
    attempts = reading.read(whole).records["causal", "reference.host"].attempts
    assert [o.symptom for o in attempts] == [Symptom.WRONG, Symptom.OK, Symptom.OK]
    merged = merge(attempts)
    assert merged is not None and merged.symptom is Symptom.NONDETERMINISTIC


def test_other_bits_in_another_process_are_a_flake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence.attribution, "in_worker", lambda *a: Attribution("undecided", "It is so."))
    recording = make(tmp_path / "b", gated.flaky, CASES[:2])
    assert recording.failed(("alibi", "reference.host")) and not recording.failed(("causal", "reference.host"))
    found = reading.read(tmp_path / "b")
    assert found.problems == () and found.records["alibi", "reference.host"].evidence.sentence == "It is so."


def test_the_real_thing(tmp_path: Path) -> None:
    recording = record.record(tmp_path / "b", CASES[:1], ["reference.host"], workers=1, repeats=2)
    bundle = reading.read(tmp_path / "b")
    first, second = bundle.records[CASES[0].name, "reference.host"].attempts
    assert bundle.problems == () and first.ok and second.ok and not recording.failed((CASES[0].name, "reference.host"))
    assert not first.launches and len(second.launches) == TIMED and min(second.launches) > 0
    assert json.loads((tmp_path / "b" / files.KERNELS).read_text()).keys() == {first.digests["kernel"]}
    with pytest.raises(InputError, match="already finished; name another folder"):
        record.record(tmp_path / "b", CASES[:1], ["reference.host"])


# --- kills


def _recorded_by_a_child(root: Path, seconds: float) -> bool:
    """Record in a process group that is killed after `seconds` from when results begin; whether it came to its end."""
    child = os.fork()
    if not child:
        os.setsid()
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        code = 1
        try:
            make(root)
            code = 0
        finally:
            os._exit(code)
    results = root / files.RESULTS
    size = results.stat().st_size if results.exists() else 0
    limit = time.monotonic() + 60
    while not (results.exists() and results.stat().st_size > size) and time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    time.sleep(seconds)
    os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def test_killed_five_times_it_comes_to_the_same(right: Path, tmp_path: Path) -> None:
    root, moments = tmp_path / "killed", random.Random(5)
    kills = 0
    while kills < 5 and not (root / files.SEAL).exists():
        kills += not _recorded_by_a_child(root, moments.uniform(0.0, 0.06))
        if not (root / files.SEAL).exists():
            assert any(files.SEAL in p for p in reading.read(root).problems), "a part is taken for a whole"
    assert kills >= 3
    if not (root / files.SEAL).exists():
        assert make(root).resumed > 0
    ours, theirs = reading.read(root), reading.read(right)
    assert ours.problems == theirs.problems == ()
    assert said(ours) == said(theirs)
    assert files.present(root).keys() == files.present(right).keys()
    for name in NAMES:
        a, b = (bundle.rows(name, "reference.host") for bundle in (ours, theirs))
        assert a is not None and b is not None and all(bool((a[k] == b[k]).all()) for k in b)


REAL = ["identity", "alibi", "causal", "softcap"]
"""Cases of the recordings that are killed for real."""


def _begun(root: Path) -> subprocess.Popen[bytes]:
    """`flexconf gate record`, as a user runs it, in a session of its own."""
    cases = [part for name in REAL for part in ("--case", name)]
    command = [sys.executable, "-W", "ignore", "-m", "flexconf", "gate", "record", "--out", str(root), *cases]
    return subprocess.Popen(
        [*command, "--subject", "reference.host", "--workers", "1", "--no-timings", "--json"],
        # git does not find a checkout: one that is being worked on may record here.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "GIT_DIR": os.devnull},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _killed(root: Path, results: int, seconds: float) -> int:
    """Record until there are so many results and then `seconds` more, and kill all of it: the results then."""
    child = _begun(root)
    limit = time.monotonic() + 120
    while len(files.read_attempts(root / files.RESULTS).found) < results:
        assert child.poll() is None and time.monotonic() < limit, "it ended before it was killed"
        time.sleep(0.01)
    time.sleep(seconds)
    assert child.poll() is None, "it ended before it was killed"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return len(files.read_attempts(root / files.RESULTS).found)


def _reasons(decision: Decision) -> list[str]:
    """Why, but for the note on a bundle that is compared with itself."""
    return [reason for reason in decision.reasons if "are one recording" not in reason]


@pytest.mark.slow
def test_a_real_recording_killed_five_times_has_the_verdict_of_an_undisturbed_one(tmp_path: Path) -> None:
    """At random moments: before there is a result, between results, and while the bundle is being finished."""
    seed = time.time_ns()
    moments = random.Random(seed)
    whole, root = tmp_path / "undisturbed", tmp_path / "killed"
    assert _begun(whole).wait() == 0
    seen = [_killed(root, n, moments.uniform(0, longest)) for n, longest in ((0, 3), (1, 0.5), (2, 0.5), (3, 0.5))]
    seen.append(_killed(root, len(REAL), moments.uniform(0, 1)))
    assert not (root / files.SEAL).exists() and seen == sorted(seen), (seed, seen)
    assert _begun(root).wait() == 0, (seed, seen)
    ours, theirs = reading.read(root), reading.read(whole)
    assert ours.problems == theirs.problems == (), (seed, seen)
    assert said(ours) == said(theirs) and files.present(root).keys() == files.present(whole).keys(), (seed, seen)
    killed, undisturbed = (compare.decide(theirs, bundle) for bundle in (ours, theirs))
    assert killed.verdict is undisturbed.verdict is Verdict.PASS, (seed, seen, killed.reasons)
    judged = [[(r.case, r.change, r.effect, r.why) for r in d.rows] for d in (killed, undisturbed)]
    assert _reasons(killed) == _reasons(undisturbed) and judged[0] == judged[1], (seed, seen)
    assert killed.counts() == {"identical": len(REAL)} and killed.elements > 0
    print(f"seed {seed}: results at the kills {seen}")


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """A bundle that was killed: unfinished, its last line cut off, a part of a file left."""
    root = tmp_path / "half"
    shutil.copytree(whole, root)
    (root / files.SEAL).unlink()
    (root / files.OUTPUTS / f".x.9{PART}").write_bytes(b"x")
    data = (root / files.RESULTS).read_bytes()
    (root / files.RESULTS).write_bytes(data[:-20])
    return root


def test_a_line_that_is_cut_off_is_done_again(half: Path, whole: Path) -> None:
    assert any("last line is cut off" in p for p in reading.read(half).problems)
    assert make(half, gated.once_wrong).resumed == 12
    assert reading.read(half).problems == () and said(reading.read(half)) == said(reading.read(whole))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cases": CASES[:3]}, "is not asked now"),
        ({"cases": [CASES[0].replace(seed=99), *CASES[1:]]}, "case alibi has changed"),
        ({"repeats": 9}, "option repeats was 5, and is 9"),
        ({"timings": False}, "option timings was True, and is False"),
        ({"label": "another"}, "it is labelled ''"),
    ],
)
def test_another_plan_does_not_go_on(half: Path, changes: dict[str, Any], says: str) -> None:
    before = {name: path.read_bytes() for name, path in files.present(half).items() if not files.is_part(name)}
    with pytest.raises(InputError, match=says):
        make(half, **changes)
    assert {name: (half / name).read_bytes() for name in before} == before


def test_another_environment_does_not_go_on(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_version", lambda package: "9.9" if package == "torch" else None)
    with pytest.raises(InputError, match="environment: packages"):
        make(half)


@pytest.mark.parametrize("left", ["notes.txt", "results.jsonl"])
def test_a_folder_of_something_else_is_left_alone(left: str, tmp_path: Path) -> None:
    (tmp_path / left).write_text("x\n")
    with pytest.raises(InputError, match=f"holds {left} and no plan.json; name a new folder"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [left]


def test_a_dirty_checkout_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "checkout", lambda: environment.Checkout("c0ffee", "5eed"))
    with pytest.raises(InputError, match="--allow-dirty"):
        plan.make(CASES, None, "", {}, False)
    allowed = plan.make(CASES, None, "", {}, True)
    assert allowed.options["allow_dirty"] and allowed.environment["git"] == {"commit": "c0ffee", "changes": "5eed"}


def test_a_planted_fault_is_part_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXCONF_PLANT", "some_fault")
    assert plan.make(CASES, None, "", {}, False).fault == "some_fault"


# --- damage


def _flip(path: Path, at: int = 60) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(bytes(data))


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _reseal(root: Path) -> None:
    """As somebody would who knows how: every SHA-256 fits."""
    (root / files.SEAL).unlink()
    files.seal(root)


def _without_a_result(root: Path) -> None:
    lines = (root / files.RESULTS).read_text().splitlines(keepends=True)
    (root / files.RESULTS).write_text("".join(x for x in lines if '"case": "roots"' not in x))
    _reseal(root)


def _a_line_twice(root: Path) -> None:
    lines = (root / files.RESULTS).read_text().splitlines(keepends=True)
    (root / files.RESULTS).write_text("".join([*lines, lines[-1]]))
    _reseal(root)


def _another_digest(root: Path) -> None:
    digest = next(c.digest() for c in CASES if c.name == "roots")
    _edit(root / files.RESULTS, digest, "0" * 64)
    _reseal(root)


def _dirty(root: Path, allowed: bool = False) -> None:
    _edit(root / files.PLAN, '"git": null', '"git": {"changes": "5eed", "commit": "c0ffee"}')
    if allowed:
        _edit(root / files.PLAN, '"allow_dirty": false', '"allow_dirty": true')
    _reseal(root)


OUT, WHY = "outputs/alibi.reference.host.safetensors", "evidence/causal.reference.host.json"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        f"a byte of {name}": ((lambda p, name=name: _flip(p / name)), name)
        for name in (files.PLAN, files.RESULTS, OUT, WHY)
    },
    "a byte of kernels.json": (lambda p: _flip(p / files.KERNELS, 0), files.KERNELS),
    **{f"{n} cut off": ((lambda p, n=n: os.truncate(p / n, 40)), n) for n in (files.PLAN, files.RESULTS, OUT, WHY)},
    **{
        f"no {name}": ((lambda p, name=name: (p / name).unlink()), name)
        for name in (files.PLAN, files.RESULTS, files.KERNELS, OUT, WHY)
    },
    "an extra file": (lambda p: (p / "outputs/more.safetensors").write_bytes(b""), "outputs/more.safetensors"),
    "an edited result": (lambda p: _edit(p / files.RESULTS, '"symptom": "wrong"', '"symptom": "ok"'), files.RESULTS),
    "no seal": (lambda p: (p / files.SEAL).unlink(), files.SEAL),
    "a seal cut off": (lambda p: os.truncate(p / files.SEAL, 90), files.SEAL),
    "a space in the seal": (lambda p: _edit(p / files.SEAL, "true,", "true, "), files.SEAL),
    "a link": (lambda p: ((p / OUT).rename(p.parent / "o"), (p / OUT).symlink_to(p.parent / "o")), OUT),
    "a result left out": (_without_a_result, "there is no result of roots on reference.host"),
    "a line twice": (_a_line_twice, "is there twice"),
    "another case": (_another_digest, "of roots on reference.host is about another version"),
    "a dirty checkout": (_dirty, plan.DIRTY),
    "a dirty checkout, which was allowed": (lambda p: _dirty(p, True), plan.DIRTY),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_every_damage_is_named(how: str, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(whole, root)
    spoil, named = DAMAGE[how]
    spoil(root)
    problems = reading.read(root).problems
    assert problems and any(named in problem for problem in problems), problems


def test_every_byte_of_a_seal_and_plan_counts(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(whole, root)
    for name, step in ((files.SEAL, 23), (files.PLAN, 101), (files.RESULTS, 997)):
        data = (root / name).read_bytes()
        for at in range(0, len(data), step):
            (root / name).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            try:
                assert reading.read(root).problems, f"byte {at} of {name}"
            except InputError as error:
                assert "format" in str(error)
        (root / name).write_bytes(data)


def test_what_is_no_bundle_is_refused(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(InputError, match="is no bundle"):
        reading.read(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        reading.read(tmp_path / "nowhere")
    root = tmp_path / "bundle"
    shutil.copytree(whole, root)
    _edit(root / files.PLAN, '"format": 1', '"format": 2')
    _reseal(root)
    with pytest.raises(InputError, match="format 2, and this is format 1"):
        reading.read(root)


# --- small forms


def test_a_small_form_says_what_the_whole_says(whole: Path, tmp_path: Path) -> None:
    size = shrink.shrink(whole, tmp_path / "small")
    assert size["after"] < size["before"]
    big, small = reading.read(whole), reading.read(tmp_path / "small")
    assert small.problems == () and small.records == big.records and small.cases == big.cases
    assert small.records["causal", "reference.host"].evidence.repro and small.rows("alibi", "reference.host") is None
    decisions = [compare.decide(a, b) for a in (big, small) for b in (big, small)]
    assert all((d.verdict, _reasons(d)) == (decisions[0].verdict, _reasons(decisions[0])) for d in decisions)
    assert json.loads((tmp_path / "small" / files.SEAL).read_text())["shrunk"] == big.side.digest
    data = (tmp_path / "small" / files.SEAL).read_bytes()
    for at in range(0, len(data), 7):
        (tmp_path / "small" / files.SEAL).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        same = reading.read(tmp_path / "small").problems == ()
        # What it was the small form of is a note; another one is as good.
        assert not same or json.loads((tmp_path / "small" / files.SEAL).read_text())["shrunk"] != big.side.digest


def test_the_kernel_of_a_failure_stays(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(whole, root)
    texts = {files.sha256_of(text): text for text in ("wrong", "right")}
    write(root / files.KERNELS, files.canonical(texts))
    _edit(root / WHY, '"kernel": ""', f'"kernel": "{files.sha256_of("wrong")}"')
    _reseal(root)
    shrink.shrink(root, tmp_path / "small")
    assert json.loads((tmp_path / "small" / files.KERNELS).read_text()) == {files.sha256_of("wrong"): "wrong"}
    assert reading.read(tmp_path / "small").records["causal", "reference.host"].evidence.kernel == "wrong"


def test_only_a_whole_bundle_is_made_small(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(whole, root)
    _flip(root / files.RESULTS)
    with pytest.raises(InputError, match="not to be relied on"):
        shrink.shrink(root, tmp_path / "small")
    shrink.shrink(whole, tmp_path / "small")
    with pytest.raises(InputError, match="is a small form already"):
        shrink.shrink(tmp_path / "small", tmp_path / "smaller")
    with pytest.raises(InputError, match="name a new folder"):
        shrink.shrink(whole, tmp_path / "small")


# --- the verdict's exit code

WAIVER = """
[[waiver]]
name = "one"
cases = ["causal"]
subjects = ["reference.host"]
changes = ["flaky"]
reason = "We ship it."
link = "https://example.com/1"
expires = {}
"""


@pytest.mark.parametrize(
    ("before", "after", "expires", "code", "says"),
    [
        ("right", "right", "", 0, "Fit to ship"),
        ("right", "whole", "", 1, "1 case newly flaky on reference.host: causal"),
        ("right", "whole", "2999-01-01", 0, "1 of the failures is waived"),
        ("right", "whole", "2020-01-01", 1, "the waiver 'one' expired on 2020-01-01"),
        ("right", "right", "2020-01-01", 1, "a waiver is expired or stale"),
        ("whole", "whole", "", 3, "1 case flaky on reference.host: causal"),
        ("right", "edited", "", 3, "the candidate's bundle cannot be trusted"),
        ("edited", "right", "", 3, "the baseline's bundle cannot be trusted"),
    ],
)
def test_the_exit_code_is_the_verdict_s(
    before: str, after: str, expires: str, code: int, says: str, right: Path, whole: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Through the command line, with bundles that were recorded."""
    edited = tmp_path / "edited"
    shutil.copytree(right, edited)
    _edit(edited / files.RESULTS, "made up", "made  up")
    bundles = {"right": right, "whole": whole, "edited": edited}
    waivers = tmp_path / "waivers.toml"
    waivers.write_text(WAIVER.format(expires) if expires else "", encoding="utf-8")
    out = tmp_path / "report"
    arguments = ["gate", "compare", str(bundles[before]), str(bundles[after]), "--waivers", str(waivers)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(out)])
    assert (ended.value.code or 0) == code
    verdict = {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[code]
    printed = capsys.readouterr().out
    assert printed.startswith(f"{verdict}\n") and says in " ".join(printed.split())
    assert sorted(p.name for p in out.iterdir()) == ["junit.xml", "report.html", "report.json", "summary.md"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert (ended.value.code or 0) == code
    read = json.loads(capsys.readouterr().out)
    assert (read["verdict"], read["exit_code"]) == (verdict, code)
    assert read == json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "helps"),
    [
        (("nowhere", "right"), "no such folder; flexconf gate record makes a bundle"),
        (("right", "empty"), "is no bundle"),
        (("right", "right", "--slower", "0.5"), "slower"),
        (("right", "right", "--waivers", "nowhere.toml"), "nowhere.toml"),
        (("right", "right", "--out", "right/plan.json"), "the report cannot be written"),
        (("right",), "Missing argument 'candidate'"),
    ],
)
def test_a_mistake_is_no_verdict(
    arguments: tuple[str, ...], helps: str, right: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(right, tmp_path / "right")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["gate", "compare", *arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and captured.out == "" and helps in captured.err and "Traceback" not in captured.err


# --- fingerprints


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Fingerprint]:
    """A copy of the checkout's goldens, and a fingerprint that is written into it."""
    place = tmp_path / "golden"
    shutil.copytree(GOLDEN, place, ignore=shutil.ignore_patterns("__pycache__"))
    results = {f"{c.name} on reference.host": {"out": c.digest(), "lse": c.digest()} for c in goldens.must_pass()}
    found = Fingerprint({"cpu": "cpu Some (R) Model", "torch": "2.13.0+cpu", "nvidia-cutlass-dsl": ""}, results)
    path = fingerprint.write(place, found)
    assert path.name == "cpu-some-r-model-torch2.13.0+cpu-dslnone.json"
    return place, found


@pytest.mark.parametrize("name", ["out", "lse"])
def test_each_digest_of_a_fingerprint_counts(name: str, kept: tuple[Path, Fingerprint]) -> None:
    place, found = kept
    result = next(r for r, digests in found.results.items() if name in digests)
    changed = {**found.results, result: {**found.results[result], name: "other"}}
    differing = fingerprint.check(place, Fingerprint(found.environment, changed))
    assert differing == [f"{result}: {name}: other bits than are kept"]


def test_a_fingerprint_is_kept_and_checked(kept: tuple[Path, Fingerprint]) -> None:
    place, found = kept
    assert goldens.verify(place) == [] and fingerprint.check(place, found) == []
    changed = {
        **found.results,
        "alibi on reference.host": {"out": "0", "lse": found.results["alibi on reference.host"]["lse"]},
    }
    assert fingerprint.check(place, Fingerprint(found.environment, changed)) == [
        "alibi on reference.host: out: other bits than are kept"
    ]
    other = {**found.results, "alibi on reference.host": {**found.results["alibi on reference.host"], "ptx": "0"}}
    assert fingerprint.check(place, Fingerprint(found.environment, other)) == [
        "alibi on reference.host: ptx: other bits than are kept"
    ]
    with pytest.raises(InputError, match="nothing is kept of this environment"):
        fingerprint.check(place, Fingerprint({**found.environment, "torch": "2.14"}, found.results))
    with pytest.raises(InputError, match="no result of"):
        fingerprint.write(place, Fingerprint(found.environment, {"alibi on reference.host": {}}))


def test_a_fingerprint_holds_the_bits_of_what_is_right_and_the_name_of_a_known_defect() -> None:
    def ended(symptom: Symptom, stage: Stage = Stage.LSE) -> Outcome:
        digests = {"out": "1", "lse": "2", "inputs": "3"}
        return Outcome("alibi", "0", "torch-flash", stage, symptom, "", {"elements": 1}, digests=digests)

    defect = next(e for e in expectations.load("torch-flash") if e.repro.name == "flash_negative_index")
    bits = {"out": "1", "lse": "2"}
    assert fingerprint._kept(ended(Symptom.OK), None) == bits
    assert fingerprint._kept(ended(Symptom.WRONG_BASE), defect) == {**bits, "outcome": "lse/wrong-base"}
    ways = [ended(Symptom.WRONG, Stage.OUTPUT), ended(Symptom.NONFINITE, Stage.LSE)]
    for outcomes in (ways, ways[:1], ways[1:]):
        merged = merge(outcomes)
        assert merged is not None and defect.covers(merged)
        assert fingerprint._kept(merged, defect) == {"known defect": "flash_negative_index"}
    assert fingerprint._kept(ways[0], None) == {"outcome": "output/wrong"}
    right = merge([*ways, ended(Symptom.OK)])
    assert right is not None and not defect.covers(right), "one that is right now and then is not what it describes"
    assert dataclasses.replace(defect, flaky=True).covers(right)


@pytest.mark.parametrize("how", ["flip", "remove", "extra"])
def test_the_folder_of_goldens_covers_its_fingerprints(how: str, kept: tuple[Path, Fingerprint]) -> None:
    place, found = kept
    path = place / "fingerprints" / f"{found.slug}.json"
    if how == "flip":
        _flip(path)
    elif how == "remove":
        path.unlink()
    else:
        path = path.with_name("other.json")
        path.write_text("{}")
    assert any(f"fingerprints/{path.name}" in problem for problem in goldens.verify(place))


def test_a_fingerprint_is_of_a_whole_bundle(whole: Path, tmp_path: Path) -> None:
    found = fingerprint.of(reading.read(whole))
    assert found.results["alibi on reference.host"].keys() == {"out", "lse"}
    assert found.results["causal on reference.host"] == {"outcome": "output/nondeterministic"}
    root = tmp_path / "bundle"
    shutil.copytree(whole, root)
    (root / files.SEAL).unlink()
    with pytest.raises(InputError, match=r"not to be relied on: bundle\.json: missing"):
        fingerprint.of(reading.read(root))
