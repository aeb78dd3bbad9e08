import json
from html.parser import HTMLParser

import pytest

from ductile.report import write_report
from ductile.report.records import ReportContext

NASTY = "<b>&\"'"
EMPTY = {"meta", "img", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Collects what is not closed in order, which tags there are, and every address that is asked for."""

    def __init__(self):
        super().__init__()
        self.open, self.mistakes, self.tags, self.sources, self.text = [], [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(tag)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("report")
    records = [
        record(NASTY, seed=0),
        record(NASTY, seed=1),
        record("proxy", seed=0),
        record("proxy", seed=1, status="FAILED"),
    ]
    context = ReportContext(f"run {NASTY}", {"name": NASTY}, {"torch": NASTY}, source=NASTY, created="2025-01-01")
    files = write_report(records, folder, context)
    checker = Checker()
    checker.feed((folder / "report.html").read_text())
    checker.close()
    return folder, files, checker


def test_page_is_well_formed(report):
    _, _, checker = report
    assert checker.mistakes == []
    assert checker.open == []


def test_page_escapes_every_name(report):
    folder, _, checker = report
    assert "b" not in checker.tags
    assert "<b>" not in (folder / "report.html").read_text()
    assert "".join(checker.text).count(NASTY) >= 5


def test_page_needs_nothing_beside_it(report):
    _, _, checker = report
    assert len(checker.sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in checker.sources)
    assert checker.tags.isdisjoint({"script", "link", "iframe"})


def test_page_says_that_runs_did_not_finish(report):
    _, _, checker = report
    assert "Runs that did not finish: 1." in "".join(checker.text)


def test_report_writes_numbers_page_and_figures(report):
    _, files, _ = report
    assert [file.name for file in files] == [
        "summary.json", "report.html", "glance.md",
        "learning_curves.png", "retention.png", "drift.png", "formats.png", "branch.png",
    ]  # fmt: skip
    assert json.loads(files[0].read_text())["schema"] == "ductile.summary/4"
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[3:])


def test_report_of_failed_runs_alone_has_no_figures_and_names_them(tmp_path, record):
    files = write_report([record(status="FAILED")], tmp_path, ReportContext("t"))
    assert [file.name for file in files] == ["summary.json", "report.html", "glance.md"]
    assert "guessable-parameter_only-0-FAILED" in files[1].read_text()
