"""The site of `make site`: every page is there, every link and figure resolves, nothing is fetched, and a phone can read it."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from oefsmc_lib.files import project_root

PAGES = {"README", "docs/results", "docs/words", "outputs/README", "notebooks/README", "notebooks/02_method"}
PHONE = {"width": 390, "height": 844}
PROBLEMS = """() => {
    const found = [...document.images].filter(i => !i.naturalWidth).map(i => `no picture ${i.getAttribute("src")}`);
    const math = [...document.querySelectorAll("article .math")].filter(m => !m.querySelector("svg"));
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    return found.concat(math.map(m => `no formula ${m.textContent}`), wide > 0 ? [`${wide} px too wide`] : []);
}"""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the site, made as `make site` makes it; a warning of Sphinx, such as of a broken link, is an error."""
    for module in ("myst_nb", "furo"):
        pytest.importorskip(module, reason=f"{module} is not installed (pip install 'oefsmc[site]')")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-qW", "--keep-going", "-b", "html", "-c", "docs", ".", str(folder)],
                          cwd=project_root(), env=os.environ | {"PYTHONPATH": str(project_root())}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """The ids of a page, and what it links to and loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("img", "script") and "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") == "stylesheet":
            self.loaded.append(found["href"])


@pytest.mark.slow
def test_links_and_figures_lead_somewhere_and_nothing_is_fetched(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert {str(path.relative_to(site).with_suffix("")) for path in pages} >= PAGES
    for path, page in pages.items():
        for target in page.links + page.loaded:
            parts = urlsplit(target)
            if parts.scheme in ("data", "mailto") or (parts.scheme and target in page.links):
                continue
            assert not parts.scheme and not parts.netloc, f"{path.name} loads {target}"
            meant = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert meant.is_file(), f"{path.name}: {target}"
            assert not parts.fragment or meant not in pages or parts.fragment in pages[meant].ids, f"{path.name}: {target}"


@pytest.mark.browser
@pytest.mark.timeout(600)
def test_every_page_opens_on_a_phone(site, chromium):
    """As files, without a server: no error, nothing fetched, every picture and formula has a size, nothing scrolls sideways."""
    said = []
    for path in sorted(site.rglob("*.html")):
        name, page = str(path.relative_to(site)), chromium.new_page(viewport=PHONE)
        page.on("console", lambda message, name=name: said.append(f"{name}: {message.text}") if message.type == "error" else None)
        page.on("pageerror", lambda error, name=name: said.append(f"{name}: {error}"))
        page.on("request", lambda request, name=name: said.append(f"{name} fetches {request.url}")
                if urlsplit(request.url).scheme not in ("file", "data") else None)
        page.on("requestfailed", lambda request, name=name: said.append(f"{name}: no {request.url}"))
        page.goto(path.as_uri())
        page.evaluate("() => window.MathJax?.startup.promise")
        said += [f"{name}: {problem}" for problem in page.evaluate(PROBLEMS)]
        page.close()
    assert said == []
