"""The page for people at a keyboard, with a screen reader, a small screen, or eyes that need contrast.

axe-core is not at hand here, so the rules that matter are asked of the browser itself: its accessibility tree, its
computed colours, its focus, its layout. Numbers are from WCAG 2.2, level AA.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from chat_page import ChatPage
from nexus_llm.chat import ChatTokenizer
from running_server import RunningServer, StartServer

pytestmark = pytest.mark.browser

TAB, ENTER, ESCAPE, SHIFT = "\ue004", "\ue007", "\ue00c", "\ue008"
SAID = "# Title\n\nSome *text* with `code`:\n\n```py\nprint(1)\n```\n\n> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"

# Every shown text, and every border that tells where a control is, against what lies behind it.
CONTRASTS = """
const parse = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
const mix = (top, below, c) => top[c] * top.a + below[c] * (1 - top.a);
const over = (top, below) => ({ r: mix(top, below, "r"), g: mix(top, below, "g"), b: mix(top, below, "b"), a: 1 });
const luminance = colour => [colour.r, colour.g, colour.b].map(value => value / 255)
  .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const ratio = (one, other) => {
  const [light, dark] = [luminance(one), luminance(other)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
};
const behind = node => {
  const layers = [];
  for (let one = node; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
};
const dialog = document.querySelector("dialog[open]");
const isShown = node => node.checkVisibility() && node.getBoundingClientRect().width > 1
  && !node.closest(".away, [inert], option") && (!dialog || dialog.contains(node))
  && !node.closest(":disabled:not(.retry)");  // a button that counts down tells something
const weak = [];
let looked = 0;
const check = (what, colour, back, least) => {
  looked += 1;
  const found = ratio(over(parse(colour), back), back);
  if (found < least) weak.push(`${what}: ${found.toFixed(2)} < ${least} (${colour})`);
};
for (const node of document.querySelectorAll("body *")) {
  if (!isShown(node) || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
  const style = getComputedStyle(node), name = `${node.tagName}#${node.id} in ${node.parentElement.className}`;
  const pixels = parseFloat(style.fontSize), isLarge = pixels >= 24 || (pixels >= 18.66 && style.fontWeight >= 700);
  const hasText = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()) || node.value;
  if (hasText) check(name, style.color, behind(node), isLarge ? 3 : 4.5);
  const faint = node.placeholder && getComputedStyle(node, "::placeholder").color;
  if (faint) check(`${name}::placeholder`, faint, behind(node), 4.5);
  const isControl = node.matches("input:not([type=checkbox], [type=radio]), select, textarea, .composer, button");
  if (isControl && !node.disabled && style.borderWidth !== "0px")
    check(`${name} border`, style.borderTopColor, behind(node.parentElement), 3);
  if (node.matches(".dot")) check(name, style.backgroundColor, behind(node.parentElement), 3);
  if (node.matches("#spark .line")) check(name, style.stroke, behind(document.getElementById("spark")), 3);
}
return [looked, weak];
"""


def check_contrast(page: ChatPage, *, at_least: int) -> None:
    """Looks at what is shown now; `at_least` so many things have to be there, or the check itself is blind."""
    looked, weak = page.run(CONTRASTS)
    assert weak == []
    assert looked >= at_least


def accessible_nodes(page: ChatPage) -> list[dict[str, Any]]:
    """What assistive technology gets to see: role, name and whether it can be focused."""
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = []
    for node in tree:
        if node.get("ignored"):
            continue
        properties = {one["name"]: one["value"].get("value") for one in node.get("properties", [])}
        name = node.get("name", {}).get("value", "").replace("\xa0", " ")
        found.append({"role": node["role"]["value"], "name": name, **properties})
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_and_all_controls_stand_out(
    page: ChatPage, start: StartServer, tokenizer: ChatTokenizer, dark: bool
) -> None:
    page.open(start(end_token_id=2, script=tokenizer.encode_text(SAID)).url, dark=dark, still=True)
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 22, 20)") is dark
    check_contrast(page, at_least=40)
    page.click("#compare")
    page.type("#top_p", "7")
    page.type("#seed", "1")
    page.run("for (const side of sides) side.top_p = ''")  # the wrong value stays in sight, and is not sent
    page.ask("A question")
    check_contrast(page, at_least=70)
    page.paste("x" * 2500)
    page.click("#send")
    page.wait_until_idle()
    page.run(
        "const wait = new CallError('Wait.', { detail: 'So long.', retrySeconds: 9 });"
        "showError(turns.at(-1), 0, talk.lastChild.querySelector('.answer'), wait)"
    )
    check_contrast(page, at_least=75)
    page.click("#code")
    check_contrast(page, at_least=6)
    page.click("#code-close")
    page.click("#key-button")
    page.run("keyIsWrong('No.')")
    check_contrast(page, at_least=6)
    page.click("#key-cancel")


def test_everything_that_can_be_used_has_a_name_and_everything_lies_in_a_landmark(
    page: ChatPage, start: StartServer, tokenizer: ChatTokenizer
) -> None:
    page.open(start(end_token_id=2, script=tokenizer.encode_text(SAID)).url)
    page.click("#compare")
    page.ask("A question")
    nodes = accessible_nodes(page)
    usable = [one for one in nodes if one.get("focusable") and one["role"] not in ("RootWebArea", "option")]
    assert len(usable) > 20
    assert [one for one in usable if not one["name"].strip()] == []
    roles = [one["role"] for one in nodes]
    for role in ("banner", "main", "complementary"):
        assert roles.count(role) == 1, role
    names = {(one["role"], one["name"]) for one in nodes}
    for expected in (
        ("heading", "Nexus LLM"), ("heading", "Question 1"), ("textbox", "Message"), ("combobox", "Model A"),
        ("combobox", "Model B"), ("spinbutton", "Temperature"), ("article", "Answer of A, echo"), ("radio", "B"),
        ("article", "Answer of B, echo"), ("region", "Conversation"), ("button", "Send"), ("button", "Compare"),
    ):  # fmt: skip
        assert expected in names, expected
    outside = "return [...document.querySelectorAll('body > *')].filter(one => !one.matches(arguments[0])).length"
    assert page.run(outside, "header, main, aside, dialog, template, script, #skip, #said") == 0
    levels = (
        "return [...document.querySelectorAll(':is(header, main) :is(h1,h2,h3,h4)')]"
        ".filter(one => one.checkVisibility()).map(one => +one.tagName[1])"
    )
    found = page.run(levels)
    assert found[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(found)), found
    assert page.run("return document.documentElement.lang") == "en"
    ids = page.run("return [...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))


def test_the_tab_key_goes_through_everything_in_order_and_the_focus_is_seen(
    page: ChatPage, echo_server: RunningServer
) -> None:
    page.open(echo_server.url)
    assert page.focused() == "text"  # one can type at once
    page.run("document.body.tabIndex = -1; document.body.focus()")  # as if one came from the address
    seen = []
    ring = (
        "const one = document.activeElement, at = one.matches('#text') ? one.closest('.composer') : one;"
        "const { outlineStyle, outlineWidth } = getComputedStyle(at);"
        "return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1"
    )
    for _ in range(20):
        page.press(TAB)
        seen.append(page.focused())
        assert page.run(ring), seen[-1]
    assert seen == [
        "skip", "compare", "new", "toggle", "model", "summary", "scroll", "BUTTON", "BUTTON", "BUTTON", "text", "reset",
        "system", "temperature", "top_p", "max_tokens", "seed", "stop", "export", "code",
    ]  # fmt: skip


def test_the_keyboard_alone_is_enough(page: ChatPage, start: StartServer, tokenizer: ChatTokenizer) -> None:
    page.open(start(step_seconds=0.05, script=tokenizer.encode_text("on and on ")).url)  # for 1,024 tokens
    field = page.find("#text")
    field.send_keys("one", SHIFT, ENTER)  # the key stays down for what follows in this call only
    field.send_keys("two", ENTER)
    page.wait(lambda: len(page.text(".words")) > 5)
    assert page.text(".question") == "one\ntwo"
    assert page.find("#send").get_attribute("aria-label") == "Stop"
    page.press(ESCAPE)
    page.wait_until_idle()
    assert page.text(".ending") == "stopped"
    assert page.focused() == "text"
    page.find("#key-button").send_keys(ENTER)
    assert page.focused() == "key"
    page.press(ESCAPE)
    page.wait(lambda: not page.find("#key-dialog").is_displayed())
    assert page.focused() == "key-button"  # back to where one was


def test_a_screen_reader_hears_the_end_of_an_answer_and_not_its_pieces(page: ChatPage, start: StartServer) -> None:
    page.open(start(end_token_id=2, step_seconds=0.01).url)
    page.run(
        "window.heard = []; new MutationObserver(() => heard.push(said.textContent))"
        ".observe(said, { childList: true, characterData: true, subtree: true })"
    )
    question = "a question of some length, whose echo comes in a hundred pieces and more than that, one by one"
    page.ask(question)
    page.wait(lambda: page.run("return heard.length") >= 2)
    assert page.run("return turns[0].replies[0].pieces") > 50
    assert page.run("return heard") == [
        "The model is answering.",
        f"The answer of echo is complete. user\n{question}",
    ]
    assert page.find("#said").get_attribute("aria-live") == "polite"
    live = "[aria-live]:not([aria-live=off]), [role=log], [role=status]"
    assert page.run("return document.querySelector('.words').closest(arguments[0])", live) is None


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_is_cut_off_at_any_width_and_fingers_can_hit_it(
    page: ChatPage, start: StartServer, tokenizer: ChatTokenizer, width: int
) -> None:
    said = SAID + "\n```\n" + "long " * 60 + "\n```\n" + "w" * 300
    page.open(start(end_token_id=2, script=tokenizer.encode_text(said)).url, width=width, height=640)

    def check() -> None:
        assert page.run("return document.documentElement.scrollWidth") <= width
        wide = (
            "return [...document.querySelectorAll('body *')].filter(one => one.checkVisibility()"
            " && !one.closest('.away, pre, .table, svg, #skip') && one.getBoundingClientRect().right > innerWidth + 1)"
            ".map(one => one.outerHTML.slice(0, 80))"
        )
        assert page.run(wide) == []
        small = (
            "return [...document.querySelectorAll('button, select, input, textarea')]"
            ".filter(one => one.checkVisibility() && one.type !== 'checkbox')"
            ".filter(one => Math.min(one.getBoundingClientRect().width, one.getBoundingClientRect().height) < 24)"
            ".map(one => one.outerHTML)"
        )
        assert page.run(small) == []  # WCAG 2.5.8; the checkbox's label is its target, too

    check()
    page.click("#compare")
    page.ask("A question")
    check()
    tops = [one.rect["y"] for one in page.driver.find_elements("css selector", ".answer")]
    assert (tops[0] == tops[1]) is (width > 704)  # beside or below each other
    if width < 1024:
        page.click("#toggle")
        assert page.focused() == "close"
        assert page.run("return document.querySelector('main').inert")
        check()
        page.press(ESCAPE)
        assert page.focused() == "toggle"
        assert not page.run("return document.querySelector('main').inert")


def test_nothing_jumps_while_an_answer_streams(page: ChatPage, start: StartServer, tokenizer: ChatTokenizer) -> None:
    said = SAID + "\n- item\n- item\n\n" + "Some words of an answer. " * 8
    page.open(start(script=tokenizer.encode_text(said), step_seconds=0.01).url, width=1100)
    page.type("#max_tokens", "300")
    page.run(
        "window.shifts = []; new PerformanceObserver(list => shifts.push(...list.getEntries()"
        ".filter(one => !one.hadRecentInput).map(one => one.value))).observe({ type: 'layout-shift' })"
    )
    page.click("#compare")
    page.ask("A question")
    assert page.texts(".ending") == ["cut at the limit"] * 2
    assert sum(page.run("return shifts")) < 0.005  # 0.1 is what web.dev calls good (read 2026-11)


def test_less_motion_is_given_to_those_who_ask_for_it(page: ChatPage, start: StartServer) -> None:
    server = start(step_seconds=0.02)
    caret = "return getComputedStyle(document.querySelector('.words > p'), '::after').animationName"
    for still, expected in ((False, "blink"), (True, "none")):
        page.open(server.url, still=still)
        page.send("go on " * 60)
        page.wait(lambda: len(page.text(".words")) > 3)
        assert page.run(caret) == expected
        page.click("#send")
        page.wait_until_idle()
