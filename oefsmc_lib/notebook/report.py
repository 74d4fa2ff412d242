"""One self-contained page of a profile: verdict, tables and the executed notebooks, readable without Python."""

import html
import re
from collections.abc import Mapping, Sequence
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
pre { background: #f6f6f6; padding: 0.6rem; overflow-x: auto; font-size: 0.8rem; }
img { max-width: 100%; height: auto; } code { font-size: 0.9em; } .prompt, .anchor-link { display: none; }
"""


def write(profile: str) -> Path:
    """Write ``outputs/report/<profile>.html`` from executed notebooks and stored rows.

    Raises :class:`InputError` where the notebooks have not been executed under the profile.
    """
    folder = outputs_folder() / "executed" / profile
    books = [folder / path.name for path in narrative()]
    for path in books:
        if not path.is_file():
            raise InputError(
                f"{path.stem} has not been executed under the profile {profile} ({folder}); "
                f"run `oefsmc figures --profile {profile}` first."
            )
    path = outputs_folder() / "report" / f"{profile}.html"
    write_whole(path, page(profile, verdict.rows_by_grid(profile, Store()), books))
    return path


def page(profile: str, rows: Mapping[str, Sequence[Row]], books: Sequence[Path]) -> str:
    """The page as HTML, with pictures inside and formulas as MathML."""
    from pygments.formatters import HtmlFormatter

    parts = {"verdict": _verdict(rows)} | {path.stem: _body(path) for path in books}
    links = "".join(f'<a href="#{name}">{name}</a>' for name in parts)
    articles = "".join(f'<article id="{name}">{text}</article>' for name, text in parts.items())
    title = html.escape(f"OE-FSMC: profile {profile}")
    style = STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    body = f"<h1>{title}</h1><nav>{links}</nav>{articles}"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _verdict(rows: Mapping[str, Sequence[Row]]) -> str:
    counts = ", ".join(f"{name} {len(own)}" for name, own in rows.items())
    claims = verdict.claim_table(verdict.judge(rows))
    cells = verdict.cells(rows.get("table2", ())).dropna(axis="columns", how="all").round(2)
    return (
        f"<h2>Which claims of the paper hold in these rows</h2><p>Rows by grid: {html.escape(counts)}.</p>"
        f"{claims.to_html(index=False, border=0)}<h3>Table 2, cell by cell</h3>"
        f"{cells.to_html(index=False, border=0, na_rep='')}"
    )


def _body(path: Path) -> str:
    """One executed notebook as HTML without a frame of its own."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas(cell.source)
        else:  # sliders need a kernel; their static twins stay
            sliders = "application/vnd.jupyter.widget-view+json"
            cell.outputs = [output for output in cell.outputs if sliders not in output.get("data", {})]
    text, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    # Links between notebooks become links within the page.
    return re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="#\1"', text)


def formulas(text: str) -> str:
    """LaTeX between dollars as MathML, which browsers draw without a network."""
    from latex2mathml.converter import convert

    def mathml(match: re.Match) -> str:
        block, inline = match.groups()
        # What is neither is code, and stays as it is.
        return convert(block.strip(), display="block") if block else convert(inline) if inline else match[0]

    return re.sub(r"`[^`]*`|\$\$(.+?)\$\$|\$([^\n]+?)\$", mathml, text, flags=re.S)
