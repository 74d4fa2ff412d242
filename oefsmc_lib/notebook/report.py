"""One self-contained page of a profile: verdict, tables and the executed notebooks, readable without Python."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import verdict
from oefsmc_lib.files import outputs_folder, write_whole
from oefsmc_lib.notebook.session import narrative
from oefsmc_lib.rows.row import Row
from oefsmc_lib.rows.store import Store

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
nav a { margin-right: 1rem; display: inline-block; } article { border-top: 2px solid #ccc; margin-top: 3rem; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
pre { background: #f6f6f6; padding: 0.6rem; overflow-x: auto; font-size: 0.8rem; } img { max-width: 100%; height: auto; }
.prompt, .anchor-link { display: none; } code { font-size: 0.9em; }
"""


def write(profile: str) -> Path:
    """Write ``outputs/report/<profile>.html`` from executed notebooks and stored rows.

    Raises :class:`InputError` where the notebooks have not been executed under the profile.
    """
    folder = outputs_folder() / "executed" / profile
    books = [folder / path.name for path in narrative()]
    absent = [path.stem for path in books if not path.is_file()]
    if absent:
        raise InputError(
            f"{absent[0]} has not been executed under the profile {profile} ({folder}); "
            f"run `oefsmc figures --profile {profile}` first."
        )
    path = outputs_folder() / "report" / f"{profile}.html"
    write_whole(path, page(profile, verdict.rows_by_grid(profile, Store()), books))
    return path


def page(profile: str, rows: dict[str, Sequence[Row]], books: Sequence[Path]) -> str:
    """The page as HTML, with pictures inside and formulas as MathML."""
    bodies = {path.stem: body(path) for path in books}
    links = "".join(f'<a href="#{name}">{html.escape(name)}</a>' for name in ("verdict", *bodies))
    articles = "".join(f'<article id="{name}">{text}</article>' for name, text in bodies.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>OE-FSMC, profile {html.escape(profile)}</title>'
        f"<style>{STYLE}{_pygments()}</style></head><body><h1>OE-FSMC: profile {html.escape(profile)}</h1><nav>{links}</nav>"
        f'<section id="verdict"><h2>The verdict</h2>{_verdict(rows)}</section>{articles}</body></html>\n'
    )


def _verdict(rows: dict[str, Sequence[Row]]) -> str:
    claims = verdict.claim_table(verdict.judge(rows))
    cells = verdict.cells(rows.get("table2", ())).dropna(axis="columns", how="all")
    counts = ", ".join(f"{name} {len(own)}" for name, own in rows.items())
    return (
        f"<p>{html.escape((verdict.__doc__ or '').split(chr(10))[0])} Rows by grid: {html.escape(counts)}.</p>"
        + claims.to_html(index=False, border=0)
        + "<h3>Table 2, cell by cell</h3>"
        + cells.round(2).to_html(index=False, border=0, na_rep="")
    )


def body(path: Path) -> str:
    """One executed notebook as HTML without a frame of its own."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas(cell.source)
        else:
            # Sliders need a kernel; their static twins stay.
            cell.outputs = [
                output
                for output in cell.outputs
                if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            ]
    notebook.metadata.pop("widgets", None)
    text, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    # Links between notebooks become links within the page.
    return re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="#\1"', text)


def formulas(text: str) -> str:
    """LaTeX between dollars as MathML, which browsers draw without a network."""
    from latex2mathml.converter import convert

    parts = re.split(r"(`[^`]*`)", text)  # code stays as it is
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(
            r"\$\$(.+?)\$\$", lambda m: convert(m[1].strip(), display="block"), parts[index], flags=re.S
        )
        parts[index] = re.sub(r"\$(.+?)\$", lambda m: convert(m[1]), parts[index])
    return "".join(parts)


def _pygments() -> str:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default").get_style_defs(".highlight")
