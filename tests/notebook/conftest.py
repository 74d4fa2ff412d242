"""A real browser, for the tests that open what people open."""

import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here; install it (Debian: apt-get install chromium) to see pages in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'oefsmc[browser]')")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=[
            "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        yield browser
        browser.close()
