"""The gate's report: that each of its files is whole, safe, small, and says first what to do."""

from __future__ import annotations

import dataclasses
import enum
import functools
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from decisions import decision
from lxml import etree

from flexconf.errors import InputError
from flexconf.gate import report
from flexconf.gate.model import Change, Decision, Effect, Evidence, Verdict, WaiverUse
from flexconf.gate.report import page, plain

FAILURES = [0, 1, 200]
FIVE_MB = 5_000_000
SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "junit-10.xsd"))
VOID = {"meta", "input", "br", "hr", "img", "link", "path"}
LOADS = {"src", "srcset", "poster", "data", "action", "formaction", "background", "ping", "manifest", "xlink:href"}
HOSTILE = (
    "</script></style></pre></textarea>--><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&amp;|\n# *x* [a](b)"
)


@functools.cache
def made(failures: int) -> Decision:
    return decision(failures)


@functools.cache
def shown(failures: int) -> str:
    return page.html(made(failures))


class Page(HTMLParser):
    """The elements of a page, each closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: {tag} {attrs}"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "path", f"{tag} is no element that closes itself"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("style", "script"))


# --------------------------------------------------------------------------------------------------------------- HTML


@pytest.mark.parametrize("failures", FAILURES)
def test_the_page_is_one_file_that_loads_nothing(failures: int) -> None:
    found = Page(shown(failures))
    assert not {tag for tag, _ in found.tags} & {"link", "img", "iframe", "object", "embed", "base", "form", "video"}
    for tag, attributes in found.tags:
        assert not LOADS & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "href" not in attributes or tag == "a"
    style = "".join(data for tag, data in found.texts if tag == "style")
    script = "".join(data for tag, data in found.texts if tag == "script")
    assert style and "url(" not in style and "@import" not in style and "http" not in style
    assert script and not re.search(r"http|fetch|XMLHttp|WebSocket|import|eval|innerHTML|\bsrc\b", script)


@pytest.mark.parametrize("failures", FAILURES)
def test_ids_are_unique_and_every_link_leads_somewhere(failures: int) -> None:
    found = Page(shown(failures))
    ids = Counter(a["id"] for _, a in found.tags if "id" in a)
    assert ids and set(ids.values()) == {1}
    inside = [a["href"][1:] for a in found.all("a") if a["href"].startswith("#")]
    assert inside and {*inside} <= {*ids}
    assert all(a["href"].startswith("https://example.org/") for a in found.all("a") if not a["href"].startswith("#"))
    assert {a["for"] for a in found.all("label")} <= {*ids}
    assert {a["data-text"] for a in found.all("details") if "data-text" in a} <= {*ids}


@pytest.mark.parametrize("failures", FAILURES)
def test_every_failure_is_there_with_its_evidence(failures: int) -> None:
    found, bad = Page(shown(failures)), [r for r in made(failures).rows if r.effect is not Effect.FINE]
    assert len(bad) == failures
    cards = [a for a in found.all("details") if a.get("class") == "card"]
    assert [a["id"] for a in cards] == [f"failure-{n}" for n in range(1, failures + 1)]
    assert all(("open" in a) is (failures <= 3) for a in cards)
    text = found.text()
    for row in bad:
        assert row.evidence.kernel in text and row.evidence.repro in text and row.evidence.sentence in text
    assert len(found.all("svg")) == 4 * failures  # three heads of out, one of LSE
    assert all(a["role"] == "img" and a["aria-label"] for a in found.all("svg"))
    assert ("more evidence than this page" in text) is False


@pytest.mark.parametrize("failures", FAILURES)
def test_it_is_for_keyboards_and_screen_readers(failures: int) -> None:
    found = Page(shown(failures))
    assert found.all("html") == [{"lang": "en"}]
    assert [len(found.all(tag)) for tag in ("title", "h1", "main", "header", "footer", "nav")] == [1] * 6
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    first = next(a for tag, a in found.tags if tag in ("a", "summary", "button", "input"))
    assert first == {"class": "skip", "href": "#failures"}
    assert len(found.all("summary")) == len(found.all("details"))
    assert all(a["tabindex"] == "0" for a in found.all("pre"))
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in found.all("div") if a.get("class") == "scroll")
    assert all({"scope", "class"} & a.keys() for a in found.all("th"))


@pytest.mark.parametrize("failures", FAILURES)
def test_the_verdict_and_what_to_do_come_first(failures: int) -> None:
    d, text = made(failures), " ".join(Page(shown(failures)).text().split())
    places = [text.index(t) for t in (str(d.verdict), plain.advice(d), d.reasons[0], "What differs", "By group")]
    assert places == sorted(places)
    assert f"<title>{d.verdict} " in shown(failures)
    assert d.verdict is (Verdict.PASS if failures == 0 else Verdict.FAIL)


def test_200_failures_are_below_5_mb() -> None:
    assert 1_000_000 < len(shown(200).encode()) < FIVE_MB


def test_a_page_does_not_outgrow_5_mb_whatever_fails() -> None:
    one = next(r for r in made(1).rows if r.effect is Effect.FAILS)
    noise = [[(7 * x * x + 3 * y + x * y) % 11 for x in range(32)] for y in range(32)]
    heads = [{"b": 0, "h": h, "rows": 160, "columns": 64, "cells": noise} for h in range(8)]
    big = {"out": {"beyond": 1, "compared": 2, "heads": heads}}
    rows = tuple(
        dataclasses.replace(
            one, case=f"{one.case}{n}", evidence=Evidence("codegen", "It is.", f"# {n}\n" * 8000, f"<{n}>" * 9000, big)
        )
        for n in range(1400)
    )
    text = page.html(dataclasses.replace(made(1), rows=rows))
    assert len(text.encode()) < FIVE_MB
    found = Page(text)
    assert len([a for a in found.all("details") if a.get("class") == "card"]) == 1400
    assert found.text().count("report.json has all of it") > 1000
    assert "characters more, which report.json has" in found.text()


NO_MAPS: list[Any] = [
    {}, {"out": None}, {"out": []}, {"out": {"heads": None}}, {"out": {"heads": ["x", None, {}]}},
    *({"out": {"heads": [{"b": 0, "h": 0, "rows": 1, "columns": 1, "cells": cells}]}}
      for cells in (None, [], [[]], [[0, 0]], [[1], [1, 2]], [["1"]], [[1.5]], [[float("nan")]], [[1] * 129])),
    {"out": {"heads": [{"b": "<b>", "h": 0, "rows": 1, "columns": 1, "cells": [[1]]}]}},
]  # fmt: skip


@pytest.mark.parametrize("found", NO_MAPS)
def test_what_is_no_map_is_not_drawn(found: Any) -> None:
    (row,) = (r for r in made(1).rows if r.effect is Effect.FAILS)
    row = dataclasses.replace(row, evidence=dataclasses.replace(row.evidence, map=found))
    assert not Page(page.html(dataclasses.replace(made(1), rows=(row,)))).all("svg")


def test_a_map_is_drawn_cell_by_cell() -> None:
    head = {"b": 1, "h": 2, "rows": 8, "columns": 6, "cells": [[0, 4, 4], [1, 2, 0]]}
    (m,) = page._maps({"out": {"beyond": 11, "compared": 48, "heads": [head]}})
    assert re.findall(r'class="m(\d)" d="([^"]*)"', m["heads"][0]["svg"]) == [
        ("1", "M0 1h1"),
        ("2", "M1 1h1"),
        ("4", "M1 0h2"),
    ]
    assert 'viewBox="0 -.5 3 2"' in m["heads"][0]["svg"]
    assert (m["cell"], m["most"], m["beyond"], m["compared"]) == ("4 by 2 elements", 4, "11", "48")


# ------------------------------------------------------------------------------------------------------- hostile texts


def poisoned(value: Any, text: str) -> Any:
    """The same with `text` in every string, but for what are no texts: enums, outcomes' digests and dates."""
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value,
            **{f.name: poisoned(getattr(value, f.name), text) for f in dataclasses.fields(value) if f.name != "state"},
        )
    if isinstance(value, Mapping):
        return {
            text * (n + 1) if k in ("out", "lse") else k: poisoned(v, text) for n, (k, v) in enumerate(value.items())
        }
    if isinstance(value, tuple):
        return tuple(poisoned(v, text) for v in value)
    return value


def test_no_text_becomes_markup() -> None:
    d = dataclasses.replace(made(200), rows=made(200).rows[:8] + made(200).rows[-12:])
    d = dataclasses.replace(d, rows=tuple(dataclasses.replace(r, waiver="w" if r.drift else "") for r in d.rows))
    plainly, wickedly = Page(page.html(poisoned(d, "zzz"))), Page(page.html(poisoned(d, HOSTILE)))

    def shape(found: Page) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in found.tags]

    assert shape(wickedly) == shape(plainly)
    said = wickedly.text()
    digests = 2  # are cut to 16 characters
    assert said.count("<script>alert(1)</script>") + digests == plainly.text().count("zzz") > 200
    assert not [a for a in wickedly.all("a") if "alert" in a["href"]]


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "//example.org"])
def test_a_waiver_s_link_is_one_to_the_web_or_a_text(link: str) -> None:
    use = WaiverUse("w", "r", link, "2030-01-01", "used")
    found = Page(page.html(dataclasses.replace(made(0), waivers=(use,))))
    assert link in found.text() and link not in {a["href"] for a in found.all("a")}


# ----------------------------------------------------------------------------------------------- JSON, XML and Markdown


@pytest.mark.parametrize("failures", FAILURES)
def test_the_json_says_all_that_the_decision_does(failures: int) -> None:
    d = made(failures)
    read = json.loads(plain.as_json(d))
    assert read["verdict"] == d.verdict and read["exit_code"] == d.exit_code and read["advice"] == plain.advice(d)
    assert read["reasons"] == [*d.reasons] and read["elements"] == d.elements
    assert Counter(r["change"] for r in read["rows"]) == read["counts"] == d.counts()
    assert [(r["case"], r["subject"], r["effect"]) for r in read["rows"]] == [
        (r.case, r.subject, r.effect) for r in d.rows
    ]
    assert [r["evidence"]["map"] for r in read["rows"]] == [r.evidence.map for r in d.rows]
    assert {*read} == {f.name for f in dataclasses.fields(Decision)} | {"format", "advice", "counts", "exit_code"}


def test_numbers_that_json_does_not_have_are_texts() -> None:
    row = dataclasses.replace(
        made(1).rows[0], evidence=Evidence(worst=({"observed": float("nan"), "bound": float("inf")},))
    )
    (read,) = json.loads(plain.as_json(dataclasses.replace(made(1), rows=(row,))))["rows"]
    assert read["evidence"]["worst"] == [{"observed": "nan", "bound": "inf"}]


def validated(text: str) -> etree._Element:
    root = etree.fromstring(text.encode())
    SCHEMA.assertValid(root)
    return root


@pytest.mark.parametrize("failures", FAILURES)
def test_the_junit_xml_is_what_jenkins_reads(failures: int) -> None:
    d = made(failures)
    root = validated(plain.junit(d))
    suites = {s.get("name"): s for s in root}
    assert {*suites} == {"verdict", *(r.subject for r in d.rows)}
    for suite in root:
        for name, kind in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name)) == len([*suite.iter(kind)])
    assert int(root.get("tests")) == len(d.rows) + 1
    red = (d.verdict is not Verdict.PASS) + failures
    assert len([*root.iter("failure", "error")]) == int(root.get("failures")) + int(root.get("errors")) == red
    assert len(suites["verdict"].findall("testcase/failure")) == (failures > 0)


def test_the_schema_does_refuse_something() -> None:
    for broken in ("<testsuites skipped='0'/>", "<testsuites><testsuite name='x'/></testsuites>", "<tests/>"):
        assert not SCHEMA.validate(etree.fromstring(broken))


@pytest.mark.parametrize(
    ("change", "effect", "waiver", "found"),
    [
        (Change.IDENTICAL, Effect.FINE, "", None),
        (Change.DRIFT, Effect.FINE, "", None),
        (Change.FIXED, Effect.FINE, "", None),
        (Change.IDENTICAL, Effect.FAILS, "", ("failure", "slower")),
        (Change.WRONG, Effect.FAILS, "", ("failure", "out of bound")),
        (Change.STILL, Effect.FAILS, "", ("failure", "still failing")),
        (Change.CRASHED, Effect.FAILS, "", ("error", "new crash")),
        (Change.FLAKY, Effect.OPEN, "", ("error", "flaky")),
        (Change.MISSING, Effect.OPEN, "", ("error", "missing")),
        (Change.SKIPPED, Effect.OPEN, "", ("error", "skipped")),
        (Change.SKIPPED, Effect.FINE, "", ("skipped", "skipped")),
        (Change.KNOWN, Effect.FINE, "", ("skipped", "known defect")),
        (Change.KNOWN, Effect.FAILS, "", ("failure", "known defect")),
        (Change.WRONG, Effect.FINE, "We ship it.", ("skipped", "out of bound")),
    ],
)
def test_a_row_as_junit(change: Change, effect: Effect, waiver: str, found: tuple[str, str] | None) -> None:
    row = dataclasses.replace(made(0).rows[0], change=change, effect=effect, waiver=waiver, group="", why="So it is.")
    (suite,) = [
        s for s in validated(plain.junit(dataclasses.replace(made(0), rows=(row,)))) if s.get("name") != "verdict"
    ]
    (case,) = suite.findall("testcase")
    assert case.get("classname") == f"flexconf.{row.subject}" and case.get("name") == row.case
    assert [(e.tag, e.get("type")) for e in case] == ([] if found is None else [found])
    assert all("So it is." in e.get("message") and waiver in e.get("message") for e in case)


def test_hostile_texts_are_valid_xml() -> None:
    d = dataclasses.replace(made(200), rows=made(200).rows[:8])
    root = validated(plain.junit(poisoned(d, f"{HOSTILE}\x00\x1b\ud800\uffff]]>\U0001f600")))
    assert not [*root.iter("script")]
    assert any(
        "<script>alert(1)" in e.get("message") and "\U0001f600" in e.get("message") for e in root.iter("failure")
    )


@pytest.mark.parametrize("failures", FAILURES)
def test_the_markdown_fits_a_comment_and_comes_to_the_point(failures: int) -> None:
    d = made(failures)
    lines = plain.markdown(d).splitlines()
    assert lines[0].startswith("## ") and str(d.verdict) in lines[0]
    assert lines[2] == f"**{plain.advice(d)}**"
    assert len("\n".join(lines)) < 8_000
    rows = [line for line in lines if re.match(r"\| \S+ \| (reference|torch)", line)]
    assert len(rows) == min(failures, 20) and ("... and 180 more in report.html" in lines) is (failures == 200)


def test_markdown_keeps_hostile_texts_in_their_cells() -> None:
    text = plain.markdown(poisoned(dataclasses.replace(made(200), rows=made(200).rows[:30]), HOSTILE + " @everyone"))
    assert len(text) < 60_000
    assert not re.search(r"(?<!\\)<|(?<!\w)@e|(?<!\\)\]\(b", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_markdown_of_too_much_is_cut_at_a_line() -> None:
    text = plain.markdown(dataclasses.replace(made(1), reasons=("r" * 499,) * 500))
    assert len(text) < 60_000 and text.endswith("\n\n... the rest is in report.html\n")
    assert text.splitlines()[-3] == f"- {'r' * 499}"


# -------------------------------------------------------------------------------------------------------------- advice


def test_what_to_do() -> None:
    def of(**changes: Any) -> str:
        return plain.advice(dataclasses.replace(made(1), **changes))

    still = dataclasses.replace(made(1).rows[0], change=Change.STILL)
    waived = dataclasses.replace(made(1).rows[0], effect=Effect.FINE, waiver="We ship it.")
    stale = (WaiverUse("w", "r", "https://example.org", "2020-01-01", "expired"),)
    planted = dataclasses.replace(made(1).candidate, environment={"planted": "c-remainder"})
    assert of().startswith("Not fit to ship: 1 of 332 results fail.") and "Keep the baseline" in of()
    assert "as they did in the baseline" in of(rows=(still,))
    assert "a waiver is expired or stale" in of(rows=(waived,), waivers=stale)
    assert "slower as a whole" in of(rows=(), waivers=())
    assert of(verdict=Verdict.PASS, rows=(waived,)) == (
        "Fit to ship: nothing is worse than in the baseline. 1 of the failures is waived."
    )
    assert of(verdict=Verdict.INCONCLUSIVE).startswith("Not fit to ship yet")
    assert of(candidate=planted).startswith("A test of the gate, with a planted fault. Not fit")


# --------------------------------------------------------------------------------------------------------------- files


def test_four_whole_files_or_an_error(tmp_path: Path) -> None:
    paths = report.write(made(1), tmp_path / "new" / "report")
    assert [*paths] == ["report.html", "report.json", "junit.xml", "summary.md"]
    assert sorted(p.name for p in (tmp_path / "new" / "report").iterdir()) == sorted(paths)
    assert all(p.read_text(encoding="utf-8") for p in paths.values())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the report cannot be written"):
        report.write(made(1), tmp_path / "file")


# ------------------------------------------------------------------------------------------------------------- browser

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
# A window is never narrower than 500 pixels; a frame is.
FRAME = """<!doctype html><iframe id="f" style="border:0;width:{width}px;height:844px" srcdoc="{page}"></iframe>
<pre id="said"></pre><script>
var f = document.getElementById("f");
f.onload = function () {{
  var d = f.contentDocument, s = d.scrollingElement, t = f.contentWindow.performance.timing;
  var beyond = function () {{ return [s.scrollWidth, f.contentWindow.innerWidth]; }};
  var closed = beyond(), took = t.loadEventStart - t.navigationStart;
  d.querySelectorAll("details").forEach(function (e) {{ e.open = true; }});
  var none = [].filter.call(d.querySelectorAll("a,summary,pre,.scroll"), function (e) {{
    e.focus();
    return d.activeElement !== e;
  }});
  document.getElementById("said").textContent = JSON.stringify({{closed: closed, opened: beyond(), took: took,
    cards: d.querySelectorAll("details.card").length, unfocused: none.length}});
}};
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")
@pytest.mark.parametrize(("failures", "width"), [(0, 390), (1, 390), (200, 390), (200, 1280)])
def test_in_a_browser(failures: int, width: int, tmp_path: Path) -> None:
    """Nothing is wider than the window, closed or opened, and all that can be opened has the focus."""
    file = tmp_path / "frame.html"
    file.write_text(FRAME.format(width=width, page=html.escape(shown(failures))), encoding="utf-8")
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,900",
        "--dump-dom",
        str(file),
    ]
    begun = time.perf_counter()
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)}
    )
    found = re.search(r'<pre id="said">(.*?)</pre>', ran.stdout)
    assert found and found[1], ran.stderr[-2000:]
    said = json.loads(html.unescape(found[1]))
    took, whole = f"loaded in {said['took']} ms", f"{time.perf_counter() - begun:.1f} s with the browser's start"
    print(f"{failures} failures, {width} px: {len(shown(failures).encode()):,} bytes, {took}; {whole}")
    assert said["cards"] == failures and said["unfocused"] == 0
    for wide, window in (said["closed"], said["opened"]):
        assert wide <= window <= width
