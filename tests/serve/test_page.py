"""The chat page in a real browser, driven as a person would: type, watch it stream, stop it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from running_server import RunningServer, StartServer

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
)
WAIT_SECONDS = 20


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    from selenium.webdriver.chrome.service import Service

    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    driver.set_window_size(1100, 800)
    yield driver
    driver.quit()


def wait_for(browser: Any, claim: Callable[[Any], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_SECONDS, poll_frequency=0.05).until(claim)


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def screenshot(browser: Any, name: str) -> None:
    """Keeps a picture where $NEXUS_SCREENSHOTS names a folder."""
    if folder := os.environ.get("NEXUS_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def ask(browser: Any, server: RunningServer, question: str) -> None:
    browser.get(server.url)
    wait_for(browser, lambda b: find(b, "#model").text == "echo")
    find(browser, "#text").send_keys(question)
    find(browser, "#send").click()


@pytest.mark.browser
def test_a_question_is_answered_in_a_stream_with_its_speed(browser: Any, start: StartServer) -> None:
    server = start(end_token_id=2, step_seconds=0.02)
    ask(browser, server, "Please tell me `print(1)` and <b>nothing</b> else")
    screenshot(browser, "asked")
    wait_for(browser, lambda b: find(b, ".assistant .words").text.startswith("user"))
    assert find(browser, "body").get_attribute("class") == "busy"
    screenshot(browser, "streaming")
    wait_for(browser, lambda b: find(b, "body").get_attribute("class") == "")
    assert find(browser, ".assistant .words").text == "user\nPlease tell me print(1) and <b>nothing</b> else"
    facts = find(browser, ".assistant .facts").text
    assert "first token" in facts
    assert "tokens/s" in facts
    screenshot(browser, "answered")
    refused = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert refused == []  # the page obeys its own content security policy


@pytest.mark.browser
def test_stop_ends_an_answer_and_frees_the_engine(browser: Any, start: StartServer) -> None:
    server = start(step_seconds=0.02)
    ask(browser, server, "go on and on " * 40)  # the echo of this takes ten seconds
    wait_for(browser, lambda b: len(find(b, ".assistant .words").text) > 10)
    find(browser, "#send").click()
    wait_for(browser, lambda b: "stopped" in find(b, ".assistant .facts").text)
    text = find(browser, ".assistant .words").text
    wait_for(
        browser, lambda b: 'num_requests_running{model_name="echo"} 0.0' in httpx.get(f"{server.url}/metrics").text
    )
    assert len(find(browser, ".assistant .words").text) < 300
    assert find(browser, ".assistant .words").text == text
    screenshot(browser, "stopped")


@pytest.mark.browser
def test_an_error_is_shown_in_words(browser: Any, start: StartServer) -> None:
    server = start()
    ask(browser, server, "x" * 2500)
    wait_for(browser, lambda b: "context is 2000 tokens" in find(b, ".error").text)
    screenshot(browser, "error")


@pytest.mark.browser
def test_the_page_fits_a_phone_and_the_dark(browser: Any, start: StartServer) -> None:
    server = start(end_token_id=2)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 375, "height": 700, "deviceScaleFactor": 2, "mobile": True,
    })  # fmt: skip
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.get(server.url)
    wait_for(browser, lambda b: find(b, "#model").text == "echo")
    screenshot(browser, "phone-dark-welcome")
    find(browser, "#ideas button").click()
    wait_for(browser, lambda b: "tokens" in find(b, ".assistant .facts").text)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(19, 23, 21)"
    screenshot(browser, "phone-dark")


def test_the_page_needs_nothing_from_elsewhere(echo_server: RunningServer) -> None:
    answer = httpx.get(echo_server.url)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    links = [word for word in answer.text.split('"') if word.startswith(("http:", "https:", "//"))]
    assert links == []
