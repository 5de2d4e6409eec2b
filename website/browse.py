"""Open the built site in a browser and follow the path of somebody who has never seen it.

python -m website.browse [folder] [--pictures FOLDER]

Every page is opened at the width of a desktop and of a telephone, in the light and in the dark.
Each must load without an error on the console, a failed request or a missing picture, and fit the
width.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import itertools
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Response,
    ViewportSize,
    sync_playwright,
)

WIDTHS: dict[str, ViewportSize] = {
    "desktop": {"width": 1280, "height": 900},
    "telephone": {"width": 390, "height": 844},
}
PICTURES_MISSING = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
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


def watched(browser: Browser, faults: list[str], width: str, scheme: Scheme) -> Page:
    """Return a page whose errors are written to `faults`."""
    page = browser.new_context(viewport=WIDTHS[width], color_scheme=scheme).new_page()
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


def look_at(page: Page, name: str, faults: list[str]) -> None:
    """Note missing pictures and what sticks out of the window."""
    faults += [f"{name}: picture {source}" for source in page.evaluate(PICTURES_MISSING)]
    excess = page.evaluate(TOO_WIDE)
    if excess > 0:
        faults.append(f"{name}: {excess} pixels wider than {page.evaluate('innerWidth')}")


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
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            page = watched(browser, faults, width, scheme)
            for name in names:
                page.goto(f"{address}/{name}", wait_until="load")
                look_at(page, name, faults)
                if options.pictures:
                    file = name.removesuffix(".html").replace("/", "-") + ".png"
                    page.screenshot(path=options.pictures / width / scheme / file, full_page=True)
        follow_first_use(watched(browser, faults, "desktop", "light"), address, faults)
        browser.close()
    for fault in faults:
        print(fault)
    print(f"{len(names)} pages in four ways and the path of first use, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
