"""The page in a real browser, driven as a person would: ask, watch it stream, stop it, compare, take it along."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from chat_page import ChatPage
from nexus_llm.chat import ChatTokenizer
from nexus_llm.recipe import KeysRecipe, ServeRecipe
from nexus_llm.serve.engines.commands import engine_command
from nexus_llm.serve.model_folder import ServedModel, read_model
from nexus_llm.serve.page.document import one_document
from running_server import RunningServer, StartServer, running_server

ATTACK = (
    "<img src=x onerror='window.taken=1'><script>window.taken=1</script> [press](javascript:window.taken=1) "
    "**<svg onload=window.taken=1>** `</code><b>`\n\n```html\n</code></pre><script>window.taken=1</script>\n```\n\n"
    "| <i>a</i> |\n|---|\n| <a href='javascript:1'>b</a> |\n\n- <iframe srcdoc='<script>1</script>'>"
)


@pytest.mark.browser
def test_a_question_is_answered_in_a_stream_with_its_speed(page: ChatPage, start: StartServer) -> None:
    page.open(start(end_token_id=2, step_seconds=0.02).url)
    page.send("Please tell me `print(1)` and <b>nothing</b> else")
    # Both in one look: on a busy machine the answer may be whole before a second one.
    page.wait(
        lambda: page.run("return running !== null && talk.querySelector('.words').textContent.startsWith('user')")
    )
    page.picture("streaming")
    page.wait_until_idle()
    assert page.find(".words").text == "user\nPlease tell me print(1) and <b>nothing</b> else"
    facts = page.text(".facts")
    assert "first token" in facts
    assert "tokens/s" in facts
    assert page.complaints() == []  # the page obeys its own content security policy


@pytest.mark.browser
def test_escape_ends_an_answer_and_frees_the_engine(page: ChatPage, start: StartServer) -> None:
    server = start(step_seconds=0.02)
    page.open(server.url)
    page.send("go on and on " * 40)  # the echo of this takes ten seconds
    page.wait(lambda: len(page.text(".words")) > 10)
    page.press("\ue00c")
    page.wait_until_idle()
    text = page.text(".words")
    assert page.text(".ending") == "stopped"
    page.wait(lambda: 'num_requests_running{model_name="echo"} 0.0' in httpx.get(f"{server.url}/metrics").text)
    assert page.text(".words") == text
    assert len(text) < 1_000  # of 1,024 tokens


@pytest.mark.browser
def test_what_a_model_says_never_becomes_html(page: ChatPage, start: StartServer, tokenizer: ChatTokenizer) -> None:
    page.open(start(end_token_id=2, script=tokenizer.encode_text(ATTACK)).url)
    page.paste(ATTACK)
    page.click("#send")
    page.wait_until_idle()
    assert page.text(".question") == ATTACK
    for shown in ("<img src=x onerror='window.taken=1'>", "[press](javascript:window.taken=1)", "</pre><script>"):
        assert shown in page.text(".words")
    assert page.run("return document.querySelectorAll('#talk :is(img,script,a,iframe,svg,i,b)').length") == 0
    assert page.run("return window.taken") is None
    assert page.complaints() == []
    # And were some part of the page to try, the browser would not let it.
    blocked = "try { talk.innerHTML = '<b>x</b>'; return 'done'; } catch (error) { return error.name; }"
    assert page.run(blocked) == "TypeError"


@pytest.mark.browser
def test_markdown_is_shown_as_it_is_meant(page: ChatPage, echo_server: RunningServer) -> None:
    page.open(echo_server.url)
    said = (
        "# Title\nIt is **bold** and *soft*, not a_b_c or 2 * 3 * 4.\n1. one\n   - below\n2. two\n\n> quoted\n---\n"
        "```py\na  = 1\n\nb"
    )
    html = page.run("const node = make('div'); show(node, arguments[0]); return node.outerHTML", said)
    for expected in (
        "<h4>Title</h4>", "<p>It is <strong>bold</strong> and <em>soft</em>, not a_b_c or 2 * 3 * 4.</p>",
        "<li>one<ul><li>below</li></ul></li><li>two</li>", "<blockquote>quoted</blockquote>", "<hr>",
        "<span>py</span>", "<code>a  = 1\n\nb</code>",
    ):  # fmt: skip
        assert expected in html
    kept = (
        "const node = make('div'); show(node, 'one\\n\\ntwo'); const first = node.firstChild;"
        "show(node, 'one\\n\\ntwo more'); return [first === node.firstChild, node.textContent]"
    )
    assert page.run(kept) == [True, "onetwo more"]


@pytest.mark.browser
def test_settings_reach_the_model_and_empty_ones_are_not_sent(page: ChatPage, echo_server: RunningServer) -> None:
    page.open(echo_server.url)
    page.ask("Hi")
    assert page.run("return turns[0].replies[0].request") == {
        "model": "echo", "messages": [{"role": "user", "content": "Hi"}],
    }  # fmt: skip
    page.click("#new")
    settings = {"system": "Be brief", "temperature": "0.5", "top_p": "0.9", "max_tokens": "12", "seed": "0"}
    for field, words in settings.items():
        page.type(f"#{field}", words)
    assert page.text(".summary") == "system prompt · temperature 0.5 · top-p 0.9 · max tokens 12 · seed 0"
    page.ask("Hi")
    assert page.text(".words") == "system\nBe b"  # twelve bytes; the first token is the control token
    assert page.text(".ending") == "cut at the limit"
    page.click("#new")
    page.click("#reset")
    page.type("#stop", "lo\nnever")
    page.ask("Hello there")
    assert page.text(".words") == "user\nHel"


@pytest.mark.browser
def test_a_wrong_setting_is_named_and_nothing_is_sent(page: ChatPage, echo_server: RunningServer) -> None:
    page.open(echo_server.url)
    page.type("#temperature", "5")
    assert page.text("#temperature-wrong") == "Between 0 and 2."
    page.send("Hi")
    assert page.run("return turns.length") == 0
    assert page.focused() == "temperature"
    page.type("#temperature", "1")
    assert page.text("#temperature-wrong") == ""
    page.type("#max_tokens", "2001")
    assert page.text("#max_tokens-wrong") == "Between 1 and 2,000."  # the model's context


@pytest.mark.browser
def test_json_is_offered_only_where_the_engine_can_hold_a_schema(
    page: ChatPage, echo_server: RunningServer, start: StartServer, tokenizer: ChatTokenizer
) -> None:
    page.open(echo_server.url)
    assert not page.find("#is_json").is_displayed()
    bytes_ = [tokenizer.encode_text(chr(one))[0] if one < 128 else 0 for one in range(256)]  # documents here are ASCII
    page.open(start(end_token_id=2, byte_token_ids=bytes_).url)
    page.find("#is_json").click()
    page.type("#schema", "{oops")
    assert page.text("#schema-wrong").startswith("This is not JSON")
    schema = '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}'
    page.find("#schema").clear()
    page.find("#schema").send_keys(schema)
    page.ask("How old?")
    assert isinstance(json.loads(page.text(".words code"))["age"], int)


@pytest.mark.browser
def test_one_question_goes_to_two_models_with_settings_of_their_own(
    page: ChatPage, start: StartServer, echo_model: ServedModel
) -> None:
    page.open(start(model=replace(echo_model, adapters=("echo-kind",)), end_token_id=2, step_seconds=0.005).url)
    page.ask("First")
    page.click("#compare")
    assert page.texts(".side select") == ["echo\necho-kind (adapter)"] * 2
    assert [one.get_attribute("value") for one in page.driver.find_elements("css selector", ".side select")] == [
        "echo", "echo-kind",
    ]  # fmt: skip
    assert page.texts(".summary") == ["default settings", "same settings as A"]
    page.type("#system", "You are B")
    page.ask("Second")
    assert page.texts(".turn:last-child h3") == ["echo", "echo-kind"]
    a, b = page.texts(".turn:last-child .words")
    assert (a, b) == ("user\nFirst", "system\nYou are B")  # the echo ends with the prompt's first turn
    contents = "return turns[1].replies.map(reply => reply.request.messages.map(message => message.content))"
    assert page.run(contents) == [  # B knows the first turn, too, though A alone answered it
        ["First", "user\nFirst", "Second"], ["You are B", "First", "user\nFirst", "Second"],
    ]  # fmt: skip
    assert all("tokens/s" in facts and "first token" in facts for facts in page.texts(".turn:last-child .facts"))
    first, second = (one.rect for one in page.driver.find_elements("css selector", ".turn:last-child .answer"))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] <= second["x"]
    page.picture("compared")
    page.click("#compare")
    page.ask("Third")
    assert len(page.texts(".turn:last-child .answer")) == 1
    assert page.complaints() == []


@pytest.mark.browser
def test_the_servers_metrics_are_live(page: ChatPage, start: StartServer) -> None:
    page.open(start(step_seconds=0.02).url)
    assert page.text("#engine") == "engine fake · context 2,000 tokens"
    page.send("go on and on " * 40)
    page.wait(lambda: page.text("#running") == "1" and page.text("#speed") not in ("–", "0"))
    page.wait(lambda: "L" in (page.find("#spark .line").get_attribute("d") or ""))
    assert "now" in page.find("#spark").get_attribute("aria-label")
    assert page.text("#cache").endswith("%")
    assert page.text("#state .label") == "ready"
    page.click("#send")  # stops
    page.wait(lambda: page.text("#running") == "0")


@pytest.mark.browser
def test_cost_is_the_tokens_times_the_configured_prices_or_says_that_there_are_none(
    page: ChatPage, start: StartServer, echo_server: RunningServer
) -> None:
    page.open(echo_server.url)
    page.ask("Hi")
    assert page.text("#cost") == "no price configured"
    keys = KeysRecipe(usd_per_million_prompt_tokens=100, usd_per_million_completion_tokens=1000)
    page.open(start(end_token_id=2, recipe=ServeRecipe(keys=keys)).url)
    for _ in range(2):
        page.ask("Hi")
        page.click("#new")
    usage = page.run("return [session.promptTokens, session.answerTokens]")
    assert page.text("#cost") == f"${(usage[0] * 100 + usage[1] * 1000) / 1e6:.5f}"
    assert usage[1] > 10
    assert page.text("#price") == "$100.00 a million tokens in, $1000.00 out"


@pytest.mark.browser
def test_a_conversation_can_be_saved_and_a_request_run_elsewhere(page: ChatPage, echo_server: RunningServer) -> None:
    page.open(echo_server.url)
    page.type("#max_tokens", "20")
    question = 'It\'s "q" \\ $HOME `x`\nÄ 🙂'
    page.paste(question)
    page.click("#send")
    page.wait_until_idle()
    page.find("#export").click()
    path = page.saved / "conversation.json"
    page.wait(path.exists)
    answer = json.loads(path.read_text())["turns"][0]["answers"][0]
    assert answer["request"]["messages"] == [{"role": "user", "content": question}]
    assert answer["usage"]["completion_tokens"] == 20
    assert answer["finish_reason"] == "length"
    page.click("#code")
    curl = subprocess.run(["bash", "-c", page.text("#snippet")], capture_output=True, check=True, timeout=60)
    assert json.loads(curl.stdout)["choices"][0]["message"]["content"] == answer["text"]
    page.run("document.querySelector('[value=python]').click()")
    python = subprocess.run([sys.executable, "-c", page.text("#snippet")], capture_output=True, check=True, timeout=60)
    assert python.stdout.decode() == answer["text"] + "\n"
    page.click("#code-close")


@pytest.mark.browser
@pytest.mark.lifecycle
def test_the_real_small_model_answers_on_the_page(page: ChatPage, small_folder: Path) -> None:
    pytest.importorskip("openvino_genai")
    model, recipe = read_model(small_folder, name="small"), ServeRecipe(kv_cache_gib=0.5)
    with running_server(model, engine_command(model, recipe), recipe=recipe) as server:
        page.open(server.url)
        page.type("#temperature", "0")
        page.type("#max_tokens", "24")
        page.ask("What is the capital of France? Answer in one sentence.")
        assert "Paris" in page.text(".words")
        assert "tokens/s" in page.text(".facts")
        assert page.find("#is_json").is_displayed()
        assert page.text("#engine").startswith("engine openvino")


def test_the_page_needs_nothing_from_elsewhere(echo_server: RunningServer) -> None:
    answer = httpx.get(echo_server.url)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    links = [word for word in answer.text.split('"') if word.startswith(("http:", "https:", "//"))]
    assert links == []


@pytest.mark.parametrize(
    ("html", "script"),
    [("<style></style>", ""), ("<style></style><script></script><script></script>", ""),
     ("<style></style><script></script>", "'</SCRIPT>'")],
)  # fmt: skip
def test_a_page_that_would_not_be_whole_is_refused(html: str, script: str) -> None:
    with pytest.raises(ValueError, match="page"):
        one_document(html, style="", script=script)


def test_the_model_list_tells_what_the_page_has_to_know(start: StartServer, echo_model: ServedModel) -> None:
    keys = KeysRecipe(usd_per_million_prompt_tokens=0.15)
    server = start(model=replace(echo_model, adapters=("kind",)), recipe=ServeRecipe(keys=keys))
    first, second = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert first["nexus"] == {
        "engine": "fake",
        "features": ["embeddings", "logit_bias", "logprobs", "prompt_logprobs", "top_logprobs"],
        "sampling": {"temperature": 0.0, "top_p": 1.0},
        "prices": {"usd_per_million_prompt_tokens": 0.15, "usd_per_million_completion_tokens": 0.0},
        "is_adapter": False,
    }
    assert (second["id"], second["nexus"]["is_adapter"]) == ("kind", True)
