"""What the page does where something is in the way: a key, a limit, an engine that dies, a server that is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_page import ChatPage
from nexus_llm.recipe import KeysRecipe, ServeRecipe
from nexus_llm.serve.access.database import Database, open_database
from nexus_llm.serve.access.key_store import create_key, revoke_key
from nexus_llm.serve.access.limits import Limits
from running_server import RunningServer, StartServer

pytestmark = pytest.mark.browser

OpenGateway = Callable[..., RunningServer]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(str(tmp_path / "keys.db"))
    yield opened
    opened.close()


@pytest.fixture
def gateway(start: StartServer, tmp_path: Path, database: Database) -> RunningServer:
    keys = KeysRecipe(database=f"sqlite:///{tmp_path / 'keys.db'}")
    return start(recipe=ServeRecipe(keys=keys), end_token_id=2)


def use_key(page: ChatPage, key: str) -> None:
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    page.type("#key", key)
    page.press("\ue007")


def test_a_key_is_asked_for_kept_in_the_tab_alone_and_nowhere_shown(
    page: ChatPage, gateway: RunningServer, database: Database
) -> None:
    key, _ = create_key(database, "app")
    page.open(gateway.url)
    assert page.text("#key-title") == "This server asks for an API key"
    assert page.focused() == "key"
    assert page.find("#key").get_attribute("type") == "password"
    assert page.text("#cost") == "not known yet"
    page.picture("key")
    use_key(page, "sk-nexus-nonsense")
    page.wait(lambda: "not known here" in page.text("#key-wrong"))
    assert page.run("return sessionStorage.length") == 0  # only a key that works is kept
    use_key(page, key)
    page.wait(lambda: not page.find("#key-dialog").is_displayed())
    page.ask("Hi")
    assert page.text(".words") == "user\nHi"
    kept = "return [Object.values(sessionStorage), localStorage.length, document.cookie, location.href]"
    assert page.run(kept) == [[key], 0, "", f"{gateway.url}/"]
    page.click("#code")
    assert "Bearer $NEXUS_API_KEY" in page.text("#snippet")
    assert key not in page.run("return document.documentElement.outerHTML")
    page.click("#code-close")
    assert key not in json.dumps(page.run("return asExport(turns, { url: pageUrl(), at: '' })"))
    page.driver.refresh()  # the tab still has it
    page.wait(lambda: page.run("return cards.length") == 1)
    page.click("#key-button")
    page.click("#forget")
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    assert page.run("return sessionStorage.length") == 0


def test_a_revoked_key_leads_back_to_the_prompt(page: ChatPage, gateway: RunningServer, database: Database) -> None:
    key, _ = create_key(database, "app")
    page.open(gateway.url)
    use_key(page, key)
    page.wait(lambda: page.run("return cards.length") == 1)
    revoke_key(database, "app")

    def is_refused() -> Any:  # the gateway remembers a key for five seconds
        page.ask("Hi")
        return page.find("#key-dialog").is_displayed()

    page.wait(is_refused)
    assert page.text(".turn:last-child .error strong") == "The server does not take this API key."
    assert "revoked" in page.text("#key-wrong")


def test_a_limit_is_explained_with_the_time_to_wait(page: ChatPage, gateway: RunningServer, database: Database) -> None:
    key, _ = create_key(database, "app", limits=Limits(requests_per_minute=1))
    page.open(gateway.url)
    use_key(page, key)
    page.wait(lambda: page.run("return cards.length") == 1)
    page.ask("Hi")
    assert page.text("#limits") == "0 of 1 requests"
    page.ask("Again")
    error = page.find(".error").text
    assert error.startswith("The limit of this key is reached.\nThe API key's limit of 1 requests a minute is reached.")
    assert page.find(".error").get_attribute("role") == "alert"
    button = page.find(".retry")
    assert not button.is_enabled()
    seconds = int(button.text.split()[-2])
    assert 1 <= seconds <= 61  # a window of a minute, rounded up
    page.picture("limit")
    page.wait(lambda: page.find(".retry").text != button.text or int(page.find(".retry").text.split()[-2]) < seconds)


def test_a_spent_budget_offers_no_second_try(
    page: ChatPage, start: StartServer, tmp_path: Path, database: Database
) -> None:
    keys = KeysRecipe(database=f"sqlite:///{tmp_path / 'keys.db'}", usd_per_million_completion_tokens=100_000)
    key, _ = create_key(database, "app", limits=Limits(nano_usd_per_month=1))
    page.open(start(recipe=ServeRecipe(keys=keys), end_token_id=2).url)
    use_key(page, key)
    page.wait(lambda: page.run("return cards.length") == 1)
    page.ask("Hi")
    assert page.text(".error strong") == "The budget of this key is used up."
    assert page.texts(".retry") == []


def test_an_answer_that_breaks_off_says_so_and_can_be_asked_for_again(
    page: ChatPage, start: StartServer, tmp_path: Path
) -> None:
    marker = tmp_path / "die"
    marker.touch()
    page.open(start(end_token_id=2, die_at_step=8, die_marker=str(marker)).url)
    page.ask("A longer question")
    assert page.text(".error strong") == "The answer broke off."
    assert page.text(".error small").startswith("Request ")
    assert page.text(".words") != ""
    assert page.text("#answer-tokens").startswith("at least")
    page.wait(lambda: page.text("#state .label") == "ready")
    page.click(".retry")
    page.wait_until_idle()
    assert page.text(".words") == "user\nA longer question"
    assert page.texts(".error") == []


def test_a_stream_that_just_ends_is_no_whole_answer(page: ChatPage, echo_server: RunningServer) -> None:
    page.open(echo_server.url)
    read = """
    const read = async text => {
      const seen = [];
      try {
        for await (const event of events(new Response(text))) seen.push(event);
      } catch (error) { seen.push(error.detail); }
      return seen;
    };
    return (async () => [await read(arguments[0]), await read(arguments[1])])();
    """
    whole = 'data: {"n": 1}\n\ndata: {"n": 2}\n\n'
    ended, cut = page.run(read, whole + "data: [DONE]\n\n", whole)
    assert ended == [{"n": 1}, {"n": 2}]
    assert cut == [{"n": 1}, {"n": 2}, "The connection ended before the answer did."]


def test_a_conversation_too_long_is_explained_in_numbers(page: ChatPage, start: StartServer) -> None:
    page.open(start().url)
    page.paste("x" * 2500)
    page.click("#send")
    page.wait_until_idle()
    assert page.text(".error strong") == "The conversation is too long for this model."
    assert "context is 2000 tokens" in page.text(".error span")
    assert page.texts(".retry") == []
    page.ask("Hi")  # what failed is no part of the conversation
    assert page.texts(".words")[-1] == "user\nHi"


def test_a_server_that_is_gone_is_noticed(page: ChatPage, start: StartServer) -> None:
    server = start(end_token_id=2)
    page.open(server.url)
    server.request_stop()
    server.wait()
    page.ask("Hi")
    assert page.text(".error strong") == "The server does not answer."
    page.wait(lambda: page.text("#state .label") == "not reachable")
    assert page.text("#running") == "–"


def test_a_model_that_still_loads_is_waited_for(page: ChatPage, start: StartServer) -> None:
    page.open(start(end_token_id=2, load_seconds=6, wait_until_ready=False).url)
    page.ask("Hi")
    assert page.text(".error strong") == "The model cannot answer now."
    page.wait(lambda: page.text("#state .label") == "ready")
    page.wait(lambda: page.text("#engine").startswith("engine fake"))  # told only once it is loaded
    page.wait(lambda: page.find(".retry").is_enabled())
    page.click(".retry")
    page.wait_until_idle()
    assert page.text(".words") == "user\nHi"
