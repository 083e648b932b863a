"""How long the prompts of OpenAI's interface are, before they are tokenised.

Chat messages hold more than their text: calls of tools in the history, pictures, sound; and the
definitions of tools go before all of it.
"""

from __future__ import annotations

from typing import Any

import orjson

from voltana.serving.engine import PromptSize

COMPLETIONS = "/v1/completions"
CHAT_COMPLETIONS = "/v1/chat/completions"

_BEFORE = ("tools", "functions", "documents")
"""What templates put before the messages, as JSON."""

_PICTURES = frozenset({"image_url", "image", "input_image"})


def batch_of(prompt: Any) -> int | None:
    """How many prompts a list is; a list of numbers is one prompt of token ids."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return None


def prompt_size(prompt: Any) -> PromptSize:
    """A prompt, or a list of them, as text or as token ids."""
    if isinstance(prompt, list) and prompt:
        if isinstance(prompt[0], int):
            return PromptSize(tokens=len(prompt))
        if isinstance(prompt[0], list):
            return PromptSize(tokens=sum(len(p) for p in prompt if isinstance(p, list)))
        return PromptSize(text_bytes=sum(map(text_bytes, prompt)))
    return PromptSize(text_bytes=text_bytes(prompt))


def chat_size(fields: dict[str, Any]) -> PromptSize:
    """A chat: its messages, and the definitions of tools before them."""
    count = _Count()
    for name in _BEFORE:
        given = fields.get(name)
        if isinstance(given, list) and given:
            count.bytes += len(orjson.dumps(given))
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            count.message(message)
    return PromptSize(text_bytes=count.bytes, pictures=count.pictures, whole=count.whole)


def text_bytes(text: Any) -> int:
    """UTF-8 length of a text; 0 of anything else."""
    if not isinstance(text, str):
        return 0
    # The UTF-8 length of an ASCII text is its length, without a copy.
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


class _Count:
    """What the messages of a chat add up to."""

    def __init__(self) -> None:
        self.bytes = self.pictures = 0
        self.whole = True

    def message(self, message: dict[str, Any]) -> None:
        content = message.get("content")
        for part in content if isinstance(content, list) else (content,):
            self._part(part)
        self.bytes += text_bytes(message.get("reasoning_content"))
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                self.bytes += text_bytes(function.get("name"))
                arguments = function.get("arguments")
                given = isinstance(arguments, dict) and arguments
                self.bytes += len(orjson.dumps(arguments)) if given else text_bytes(arguments)

    def _part(self, part: Any) -> None:
        if not isinstance(part, dict):
            self.bytes += text_bytes(part)
        elif isinstance(part.get("text"), str):
            self.bytes += text_bytes(part["text"])
        elif part.get("type") in _PICTURES or not _PICTURES.isdisjoint(part):
            self.pictures += 1
        elif part:
            self.whole = False
