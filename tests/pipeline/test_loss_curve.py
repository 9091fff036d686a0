from __future__ import annotations

import math
import os
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_llm.artifacts import Artifact, Manifest
from nexus_llm.pipeline import report
from nexus_llm.pipeline.loss_curve import loss_curve, moving_mean, ticks

SVG = "{http://www.w3.org/2000/svg}"


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 3 / step**0.2 + 0.1 * math.sin(step * 7), "learning_rate": 1e-4 * min(1, step / 5)}
        | changes
        for step in range(1, count + 1)
    ]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@given(
    losses=st.lists(st.floats(0, 1e6) | st.just(math.nan) | st.just(math.inf), min_size=0, max_size=80),
    validation=st.lists(st.floats(0, 1e3), max_size=3),
)
def test_any_losses_give_a_picture_whose_points_lie_inside_it(losses: list[float], validation: list[float]) -> None:
    log = [{"step": step, "loss": loss, "learning_rate": 1e-4} for step, loss in enumerate(losses, start=1)]
    picture = parsed(loss_curve(log, [{"step": step, "loss": loss} for step, loss in enumerate(validation)]))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    for line in picture.iter(f"{SVG}polyline"):
        for point in line.attrib["points"].split():
            across, down = map(float, point.split(","))
            assert 0 <= across <= width
            assert 0 <= down <= height


def test_skipped_steps_are_crosses_with_their_reason_and_no_part_of_the_line() -> None:
    log = rows(10)
    log[3] = {"step": 4, "loss": 900.0, "learning_rate": 1e-4, "skipped": "loss <spike>"}
    log[6] |= {"loss": None, "skipped": "the loss is nan"}
    picture = loss_curve(log, [{"step": 10, "loss": 2.0}])
    assert "step 4 skipped: loss &lt;spike&gt;" in picture
    assert "step 7 skipped: the loss is nan" in picture
    labels = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)</text>', picture)]
    assert max(labels) < 10  # the spike does not squeeze the curve


def test_long_runs_are_smoothed_and_stay_small() -> None:
    picture = loss_curve(rows(50_000), [])
    assert len(picture) < 60_000
    assert picture.count("<polyline") == 3  # single steps, their mean, the learning rate
    assert loss_curve(rows(20), []).count("<polyline") == 2


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=50), window=st.integers(1, 60))
def test_a_moving_mean_is_the_mean_of_the_last_values(values: list[float], window: int) -> None:
    for place, mean in enumerate(moving_mean(values, window)):
        last = values[max(0, place + 1 - window) : place + 1]
        assert mean == pytest.approx(sum(last) / len(last), abs=1e-9)


@given(low=st.floats(0, 1e3), width=st.floats(1e-3, 1e3))
def test_ticks_lie_inside_and_are_a_handful(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 <= tick <= low + width + 1e-6 for tick in found)


def training_section(folder: Path) -> str:
    import json

    log = rows(120)
    log[60] |= {"skipped": "loss 9.1 is 3.4 times the median of the last 32 steps", "loss": 9.1}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    facts = {
        "steps": 120,
        "tokens": 122_880,
        "trainable_parameters": 4_884_480,
        "validation_losses": [{"step": step, "loss": 3.2 / (step + 1) ** 0.2} for step in (0, 40, 80, 120)],
        "broken_checkpoints": [{"name": "step-00000040", "reason": "state.json was altered"}],
    }
    manifest = Manifest(kind="train", key="k", id="i", inputs={}, recipe={}, files=(), facts=facts)
    return report._training_section(Artifact(folder, manifest))


def test_the_report_counts_what_was_skipped_and_set_aside(tmp_path: Path) -> None:
    section = training_section(tmp_path)
    assert "Skipped steps, marked by crosses: 1." in section
    assert "Broken checkpoints that were set aside: 1." in section


@pytest.mark.browser
def test_the_curve_fits_a_narrow_and_a_wide_screen(tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("no chromium with chromedriver on this machine")
    from selenium.webdriver.chrome.service import Service

    page = (resources.files("nexus_llm.evaluate") / "report_page.html").read_text(encoding="utf-8")
    style = page[page.index("<style>") : page.index("</style>") + len("</style>")]
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    (tmp_path / "page.html").write_text(f"{head}{style}<main>{training_section(tmp_path)}</main>", encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *quiet):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    browser = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        for width in (400, 1000):
            size = {"width": width, "height": 620, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((tmp_path / "page.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            if folder := os.environ.get("NEXUS_SCREENSHOTS"):
                browser.save_screenshot(str(Path(folder) / f"loss-curve-{width}.png"))
    finally:
        browser.quit()
