"""The refusals of keys and limits in OpenAI's shape. None of them repeats a key."""

from __future__ import annotations

from nexus_llm.serve.access.limits import Refusal, Standing
from nexus_llm.serve.api_errors import ApiError, retry_after

DATABASE_RETRY_SECONDS = 2


_UNAUTHORIZED = {
    "no_key": "This server needs an API key: send the header authorization: Bearer sk-nexus-…",
    "unknown_key": "The API key is not known here.",
    "expired_key": "The API key has expired.",
    "revoked_key": "The API key was revoked.",
}


def unauthorized(reason: str) -> ApiError:
    """401: there is no key that is good now."""
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, _UNAUTHORIZED[reason], code="invalid_api_key", headers=headers)


def endpoint_not_allowed(path: str) -> ApiError:
    return ApiError(403, f"This API key may not use {path[:200]}.", code="endpoint_not_allowed")


def model_not_allowed(model: str) -> ApiError:
    return ApiError(
        403, f"This API key may not use the model {model[:200]!r}.", param="model", code="model_not_allowed"
    )


def limit_reached(refusal: Refusal, standing: Standing, *, tokens: int) -> ApiError:
    """429: `rate_limit_exceeded` where waiting helps or a smaller request would do, else `insufficient_quota`."""
    headers = rate_limit_headers(standing)
    if refusal.retry_after_seconds is None:
        headers["x-should-retry"] = "false"  # OpenAI's own clients read it
    else:
        headers["retry-after"] = str(retry_after(refusal.retry_after_seconds))
    if refusal.reason == "budget":
        message = "The API key's budget for this month does not cover this request."
        return ApiError(429, message, type="insufficient_quota", code="insufficient_quota", headers=headers)
    kind = "requests"
    if refusal.reason == "requests":
        limit = standing.requests.limit if standing.requests else 0
        message = f"The API key's limit of {limit} requests a minute is reached."
    elif refusal.reason == "budget_held":
        message = "Requests under way may use up the rest of the API key's budget for this month."
    else:
        kind, limit = "tokens", standing.tokens.limit if standing.tokens else 0
        message = f"The API key's limit of {limit} tokens a minute has no room for this request's {tokens}"
        message += " (prompt and max_tokens): make it shorter." if refusal.reason == "too_large" else "."
    return ApiError(429, message, type=kind, code="rate_limit_exceeded", headers=headers)


def database_down() -> ApiError:
    """503: nobody can tell now whether the request is allowed, so it is not."""
    return ApiError(
        503,
        "Keys and limits cannot be checked now.",
        type="server_error",
        code="access_unavailable",
        headers={"retry-after": str(DATABASE_RETRY_SECONDS)},
    )


def rate_limit_headers(standing: Standing) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` for the limits that a key has (platform.openai.com/docs/guides/rate-limits, 2026-11).

    >>> from nexus_llm.serve.access.limits import Allowance
    >>> rate_limit_headers(Standing(Allowance(10, 9, 61)))["x-ratelimit-reset-requests"]
    '1m1s'
    """
    headers = {}
    for name, allowance in (("requests", standing.requests), ("tokens", standing.tokens)):
        if allowance is not None:
            minutes, seconds = divmod(allowance.reset_seconds, 60)
            headers[f"x-ratelimit-limit-{name}"] = str(allowance.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(allowance.remaining)
            headers[f"x-ratelimit-reset-{name}"] = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    return headers
