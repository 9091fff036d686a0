"""The pictures of the page in `docs/images`, from a running server with a real model.

    nexus serve smollm2-135m-instruct --port 8000
    python benchmarks/page_screenshots.py http://127.0.0.1:8000/

Needs Chromium, its driver and selenium. Sampling has a fixed seed, so that only speeds differ from run to run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 200_000
QUESTION = "Explain in a few short points what an exception in Python is, with a small example."

sys.path.insert(0, str(ROOT / "tests"))  # the page's own driver, as its tests have it

from chat_page import ChatPage, chat_page  # noqa: E402


def main() -> None:
    """Takes all pictures and refuses those that are too heavy for a page of documentation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chat_page(Path(folder)) as page:
        take(page, arguments.url)
    for path in sorted(IMAGES.glob("page-*.png")):
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size} bytes")
        if size > MAX_BYTES:
            raise SystemExit(f"{path} is over {MAX_BYTES} bytes")


def take(page: ChatPage, url: str) -> None:
    """An answer in the light, two sets of settings side by side, and the dark on a small screen."""
    page.open(url, width=1200, height=800)
    settle(page, temperature="0", max_tokens="160")
    page.ask(QUESTION)
    snap(page, "page-chat")
    page.open(url, width=1200, height=800)
    settle(page, temperature="0", max_tokens="120")
    page.click("#compare")
    settle(page, temperature="0.9", seed="7")
    page.ask("What is a dictionary in Python? Answer in three sentences.")
    snap(page, "page-compare")
    page.open(url, width=400, height=800, dark=True)
    page.click("#toggle")
    settle(page, temperature="0", max_tokens="160")
    page.click("#close")
    page.ask(QUESTION)
    snap(page, "page-phone")


def settle(page: ChatPage, **settings: str) -> None:
    """Fills in settings of the side that is edited."""
    for field, value in settings.items():
        page.type(f"#{field}", value)


def snap(page: ChatPage, name: str) -> None:
    """Keeps what is seen now, once the server's metrics have caught up with the answer."""
    page.wait(lambda: page.text("#running") == "0")
    page.run("document.activeElement.blur()")
    page.driver.save_screenshot(str(IMAGES / f"{name}.png"))


if __name__ == "__main__":
    main()
