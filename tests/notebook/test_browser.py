"""A reader's view: a notebook in JupyterLab in a real browser, run, a slider moved, the picture seen to change."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from oefsmc_lib.files import data_folder, project_root

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks; yields its address."""
    home = tmp_path_factory.mktemp("lab")
    root = home / "clone"
    # A copy, because JupyterLab saves what it opens; the project's markers go along.
    for name in ("notebooks", "params"):
        shutil.copytree(project_root() / name, root / name)
    shutil.copy(project_root() / "pyproject.toml", root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    environment = os.environ | {"OEFSMC_DATA": str(data_folder()), "OEFSMC_OUTPUTS": str(home / "outputs"),
                                "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                                "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    environment.pop("OEFSMC_QUIET", None)                  # sliders are for people, and here is one
    log = open(home / "lab.log", "w")
    server = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
                               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
                               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
                              env=environment, cwd=root, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, (home / "lab.log").read_text()[-2000:]
                time.sleep(0.5)
        yield address, token
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture()
def page(chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


def test_a_slider_moves_the_picture_of_notebook_02(lab, page, tmp_path):
    """Notebook 02 up to its sliders: run in JupyterLab, then the first slider is moved with the keyboard."""
    address, token = lab
    page.goto(f"{address}/lab/tree/notebooks/02_method.ipynb?token={token}&reset")
    page.wait_for_selector(".jp-Notebook", timeout=120_000)
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=120_000)
    page.click(".jp-Notebook .jp-Cell >> nth=0")
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells")
    slider = page.locator(".jp-OutputArea .noUi-handle, .jp-OutputArea .ui-slider-handle").first
    slider.wait_for(timeout=400_000)
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=400_000)
    slider.scroll_into_view_if_needed()
    picture = page.locator(".widget-output img, .jupyter-widgets-output-area img").first      # by version of ipywidgets
    picture.wait_for(timeout=60_000)
    before, readout = picture.get_attribute("src"), page.locator(".widget-readout").first.inner_text()
    slider.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    deadline = time.monotonic() + 60
    while picture.get_attribute("src") == before and time.monotonic() < deadline:
        page.wait_for_timeout(500)
    page.screenshot(path=str(tmp_path / "after.png"))
    assert picture.get_attribute("src") != before, "the picture did not change"
    assert page.locator(".widget-readout").first.inner_text() != readout
    errors = page.locator(".jp-RenderedText[data-mime-type*='stderr'], .jp-RenderedText[data-mime-type*='error']")
    assert [text for text in errors.all_inner_texts() if "Traceback" in text] == []
