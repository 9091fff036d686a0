"""The chat page in headless Chromium, as a person at a keyboard has it, for the tests and for pictures of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
WAIT_SECONDS = 60  # a busy machine draws slowly; nothing waits for so long on a quiet one


class NoBrowserError(Exception):
    """There is no Chromium with its driver here, or no selenium."""


class ChatPage:
    """One browser window."""

    def __init__(self, driver: Any, saved: Path) -> None:
        self.driver = driver
        self.saved = saved
        """Where the browser saves what it is given to save."""

    def open(self, url: str, *, width: int = 1280, height: int = 860, dark: bool = False, still: bool = False) -> None:
        """Loads the page anew and waits until it knows its models or asks for a key; `still` wants less motion."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get_log("browser")  # what earlier pages said
        self.driver.get(url)
        self.wait(lambda: self.run("return cards.length > 0 || isLockedOut"))

    def wait(self, claim: Callable[[], Any]) -> Any:
        """What `claim` gives once it is true."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(
            self.driver, WAIT_SECONDS, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
        )
        return waiting.until(lambda _driver: claim())

    def run(self, script: str, *values: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *values)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        """All text of an element, also where it cannot be seen."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        """The shown text of each element."""
        return [one.text for one in self.driver.find_elements("css selector", selector)]

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, words: str) -> None:
        """Puts words in place of what a field holds, key by key."""
        field = self.find(selector)
        field.clear()
        field.send_keys(words)

    def paste(self, words: str) -> None:
        """Puts a long message into the composer at once."""
        self.run("text.value = arguments[0]; text.dispatchEvent(new Event('input'))", words)

    def press(self, *keys: str) -> None:
        """Presses keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def send(self, question: str) -> None:
        """Asks, and does not wait."""
        self.find("#text").send_keys(question)
        self.click("#send")

    def ask(self, question: str) -> None:
        """Asks, and waits for the end of all answers."""
        self.send(question)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        self.wait(lambda: self.run("return !running && !document.querySelector('.streaming')"))

    def complaints(self) -> list[str]:
        """What the browser's console holds against the page: broken scripts, broken policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, name: str) -> None:
        """Keeps a picture where $NEXUS_SCREENSHOTS names a folder."""
        if folder := os.environ.get("NEXUS_SCREENSHOTS"):
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def focused(self) -> str:
        """Where the focus is: the element's id, or its classes."""
        return str(self.run("const one = document.activeElement; return one.id || one.className || one.tagName"))


@contextlib.contextmanager
def chat_page(profile: Path) -> Iterator[ChatPage]:
    """A browser with a profile of its own in `profile`; what it saves goes to `profile / "saved"`.

    Raises:
        NoBrowserError: there is none.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        raise NoBrowserError("no chromium with chromedriver on this machine")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        raise NoBrowserError("selenium is not installed") from None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(profile / "saved")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        yield ChatPage(driver, profile / "saved")
    finally:
        driver.quit()
