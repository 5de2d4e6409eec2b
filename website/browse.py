"""Open the built site in a browser and follow the path of somebody who has never seen it.

python -m website.browse [folder] [--pictures FOLDER]

Every page is opened at desktop width in the light and at telephone width in the dark. Each must
load without an error on the console, a failed request or a missing picture, and fit the width.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
TELEPHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
PICTURES_MISSING = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Print nothing per request."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yields its address."""
    handler = functools.partial(_Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def watched(browser: Browser, device: dict[str, Any], faults: list[str]) -> Page:
    """Return a page whose errors are written to `faults`."""
    page = browser.new_context(**device).new_page()
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the next page was opened meanwhile
            faults.append(f"{page.url}: no {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            faults.append(f"{page.url}: {response.status} for {response.url}")

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"{page.url}: console: {message.text}")

    page.on("requestfailed", failed)
    page.on("response", answered)
    page.on("console", heard)
    return page


def look_at_all(page: Page, address: str, names: Sequence[str], faults: list[str]) -> None:
    """Open every page, and note missing pictures and what sticks out of the window."""
    for name in names:
        page.goto(f"{address}/{name}", wait_until="load")
        faults += [f"{name}: picture {source}" for source in page.evaluate(PICTURES_MISSING)]
        excess = page.evaluate(TOO_WIDE)
        if excess > 0:
            width = page.viewport_size["width"] if page.viewport_size else 0
            faults.append(f"{name}: {excess} pixels wider than {width}")


def follow_first_use(page: Page, address: str, faults: list[str]) -> None:
    """From the home page to a running snippet, a question, and an error message."""
    page.goto(f"{address}/index.html")
    page.get_by_role("link", name="Choosing").first.click()
    page.get_by_role("link", name="Quick start, PyTorch").first.click()
    if "Celo2(model" not in page.locator("pre").nth(1).inner_text():
        faults.append("the quick start does not begin with making the optimizer")
    page.get_by_role("article").get_by_role("link", name="learning rate and length").click()
    page.get_by_role("heading", name="Coming from AdamW").wait_for()
    page.locator("input[name=query]").click()
    page.keyboard.type("flattened FullyShardedDataParallel")
    found = page.locator(".md-search-result__item a").first
    found.wait_for()
    found.click()
    page.wait_for_url("**/troubleshooting.html*")
    page.get_by_title("Dark").click()
    if page.locator("body").get_attribute("data-md-color-scheme") != "slate":
        faults.append("the switch to dark does nothing")


def main() -> None:
    """Print what is wrong, and exit with 1 if anything is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path, nargs="?", default=Path("site"))
    parser.add_argument("--pictures", type=Path, help="folder for pictures of every page")
    options = parser.parse_args()
    names = sorted(p.relative_to(options.site).as_posix() for p in options.site.rglob("*.html"))
    names.remove("404.html")
    faults: list[str] = []
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright, served(options.site) as address:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        for label, device in (("desktop", DESKTOP), ("telephone", TELEPHONE)):
            page = watched(browser, device, faults)
            look_at_all(page, address, names, faults)
            if options.pictures:
                photograph(page, address, names, options.pictures / label)
        follow_first_use(watched(browser, DESKTOP, faults), address, faults)
        browser.close()
    for fault in faults:
        print(fault)
    print(f"{len(names)} pages at two widths and the path of first use, {len(faults)} faults")
    sys.exit(1 if faults else 0)


def photograph(page: Page, address: str, names: Sequence[str], folder: Path) -> None:
    """Write a picture of every page in full length."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        page.goto(f"{address}/{name}", wait_until="load")
        path = folder / (name.removesuffix(".html").replace("/", "-") + ".png")
        page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    main()
