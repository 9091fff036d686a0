"""A load test of any OpenAI-compatible server: what is sent and when, what came back, and what that means.

`plan` and `trace` say what to send, `prompts` writes it, `attempt` sends one request, `run` sends all of them,
`records` keeps what was measured in bounded memory, `summary` turns it into one document, `report` into a page.
"""
