"""The report as one HTML file that needs nothing beside it: figures embedded, no scripts, light and dark."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from ductile.report.glance import glance
from ductile.report.plots import Plot
from ductile.report.tables import text_tables
from ductile.report.text import TextTable

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1f24; --soft: #5b6570; --line: #d9dee4;
  --stripe: #f5f7f9; --warn: #9a3412; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --text: #e4e8ec; --soft: #9aa5b1; --line: #323a43; --stripe: #1b2026; --warn: #fdba74; }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.75rem; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem; }
p { margin: .5rem 0; max-width: 60rem; }
.soft { color: var(--soft); font-size: .9rem; }
.warn { color: var(--warn); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: bottom; white-space: nowrap; }
th.label, td.label { text-align: left; }
tbody tr:nth-child(even) { background: var(--stripe); }
figure { margin: 1rem 0 0; }
figure img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 60rem; }
details { margin-top: .75rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: .8rem; background: var(--stripe); border: 1px solid var(--line);
  border-radius: 6px; font-size: .8rem; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="soft">$about</p>
$failed
$tables
$figures
<h2>How it was made</h2>
<details><summary>Versions</summary><pre>$versions</pre></details>
<details><summary>Settings</summary><pre>$settings</pre></details>
</body>
</html>
""")


def html_page(summary: Mapping[str, Any], plots: Sequence[Plot]) -> str:
    """The page. summary: what `summarise` returned; every text of it is escaped. plots: files to embed."""
    runs = summary["runs"]
    about = [f"runs finished: {runs['finished']}", summary["source"], summary["created"]]
    missing = f"Runs that did not finish: {runs['not_finished']}. They are listed below and in no mean."
    return _PAGE.substitute(
        title=escape(summary["title"]),
        about=escape(" · ".join(part for part in about if part)),
        failed=f'<p class="warn">{missing}</p>' if runs["not_finished"] else "",
        tables="\n".join(_table(table) for table in (glance(summary), *text_tables(summary)) if table.rows),
        figures="\n".join(_figure(plot) for plot in plots),
        versions=escape("\n".join(f"{name} {version}" for name, version in summary["versions"].items())),
        settings=escape(json.dumps(summary["settings"], indent=1, ensure_ascii=False)),
    )


def _table(table: TextTable) -> str:
    head = "".join(
        f"<th{_label(table, i)}>{escape(name).replace(chr(10), '<br>')}</th>" for i, name in enumerate(table.columns)
    )
    rows = ["".join(f"<td{_label(table, i)}>{escape(text)}</td>" for i, text in enumerate(row)) for row in table.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"<h2>{escape(table.title)}</h2>\n"
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
        f'<p class="soft">{escape(table.note)}</p>'
    )


def _label(table: TextTable, column: int) -> str:
    return ' class="label"' if column < table.labels else ""


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.path.read_bytes()).decode()
    return (
        f"<h2>{escape(plot.title)}</h2>\n"
        f'<figure><img alt="{escape(plot.title)}. {escape(plot.caption)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )
