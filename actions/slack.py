"""slack.post: tell a channel, by an incoming webhook or by the Web API (docs.slack.dev)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runbook.actions import _http
from runbook.contract import Context, Notify, Outputs, PermanentError, TemporaryError, param, shorten

API = "https://slack.com/api/chat.postMessage"
TEMPORARY = ("ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout")
"""`error` of an answer of status 200 whose `ok` is false: these pass (docs.slack.dev: chat.postMessage, Errors)."""
TEXT = 3000  # characters of one attachment text that Slack shows


@dataclass(frozen=True, kw_only=True)
class PostArgs:
    """Parameters of slack.post."""

    text: str = param("The message, in Slack's mrkdwn.")
    webhook: str | None = param(
        "URL of an incoming webhook (it is the secret).", default=None, secret=True, family=True
    )
    token: str | None = param("Bot token (xoxb-...), with `channel`.", default=None, secret=True, family=True)
    channel: str | None = param("Channel id or name, with `token`.", default=None, family=True)
    title: str | None = param("A headline above the text.", default=None)
    color: str | None = param("Bar beside the message: good, warning, danger or #rrggbb.", default=None)
    fields: dict[str, Any] = param("Name and value pairs, shown in two columns.", default_factory=dict)
    thread: str | None = param("`ts` of a message of ours to answer in its thread (`token` only).", default=None)


class Post(Notify[PostArgs]):
    """Post a message. Without a webhook or token (an optional secret that is not there) it fails at once: a warning."""

    name = "slack.post"
    returns = {"ts": "id of the message, for `thread`; null by webhook"}

    def check(self, args: PostArgs) -> Iterator[str]:
        if args.token is not None and args.channel is None:
            yield "channel: required with token"
        if args.thread and args.webhook is not None:
            yield "thread: a webhook cannot answer in a thread; use token and channel"

    def run(self, args: PostArgs, ctx: Context) -> Outputs:
        for problem in self.check(args):
            raise PermanentError(problem)
        message = _message(args)
        if args.webhook is not None:
            _by_webhook(ctx, args.webhook, message)
            return {"ts": None}
        if args.token is not None:
            return {"ts": _by_token(ctx, args.token, args.channel or "", args.thread, message)}
        raise PermanentError("neither webhook nor token is there", hint="set the secret that the playbook names")


def _message(args: PostArgs) -> dict[str, Any]:
    if not (args.title or args.color or args.fields):
        return {"text": args.text}
    attachment: dict[str, Any] = {"fallback": args.title or args.text, "text": args.text[:TEXT], "mrkdwn_in": ["text"]}
    if args.title:
        attachment["title"] = args.title
    if args.color:
        attachment["color"] = args.color
    if args.fields:
        attachment["fields"] = [
            {"title": name, "value": _said(value), "short": True} for name, value in args.fields.items()
        ]
    return {"attachments": [attachment]}


def _said(value: Any) -> str:
    return "yes" if value is True else "no" if value is False else "" if value is None else str(value)


def _by_webhook(ctx: Context, webhook: str, message: dict[str, Any]) -> None:
    """200 and the body `ok`; anything else is an error, whose text says which (docs.slack.dev: incoming webhooks)."""
    reply = _sent(ctx, ctx.address("slack", webhook), message, {})
    if reply.text().strip() != "ok":
        raise PermanentError(f"Slack did not take it: {shorten(reply.text(), 200)}")


def _by_token(ctx: Context, token: str, channel: str, thread: str | None, message: dict[str, Any]) -> str | None:
    content = {"channel": channel, **message} | ({"thread_ts": thread} if thread else {})
    reply = _sent(ctx, ctx.address("slack", API), content, {"Authorization": f"Bearer {token}"})
    answer = reply.json()
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        error = str(answer.get("error", "")) if isinstance(answer, dict) else ""
        text = f"Slack did not take it: {error or 'no answer that can be read'}"
        raise TemporaryError(text, _http.retry_after(reply)) if error in TEMPORARY else PermanentError(text)
    ts = answer.get("ts")
    return str(ts) if ts is not None else None


def _sent(ctx: Context, url: str, content: dict[str, Any], headers: dict[str, str]) -> _http.Reply:
    try:
        reply = _http.send_json(ctx, "POST", url, content, headers)
    except (TemporaryError, PermanentError) as failure:
        # a webhook's path is its secret, and may be one that nobody declared
        said = failure.message.replace(_http.place(url), "Slack")
        raise type(failure)(said) from None
    if not 200 <= reply.status < 300:
        raise _http.refuse(reply, "Slack")
    return reply


ACTIONS = (Post,)
