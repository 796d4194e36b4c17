"""Prompts to token ids, by the base model's own tokenizer and its pinned chat template."""

from __future__ import annotations

import asyncio
from typing import Any

from adaptive_lora.errors import InvalidRequest, Unsupported
from adaptive_lora.types import ChatMessage, Prompt

LONG_CHARS = 8192
"""From this length on a prompt is tokenized in a thread, so that the event loop stays free."""


class PromptEncoder:
    """Wraps a Hugging Face tokenizer. Templates come from the model alone, never from a request."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._one_at_a_time = asyncio.Lock()

    async def encode(self, prompt: Prompt) -> list[int]:
        """Token ids as the model will see them.

        Raises Unsupported for a conversation if the model has no chat template (a single user message counts
        as raw text), InvalidRequest for an empty prompt or one that the template refuses.
        """
        length = len(prompt) if isinstance(prompt, str) else sum(len(m.content) for m in prompt)
        if length < LONG_CHARS:
            return self._encode(prompt)
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._encode, prompt)

    async def encode_answer(self, text: str) -> list[int]:
        """Token ids of a continuation: no special tokens. Raises InvalidRequest if it is empty."""
        async with self._one_at_a_time:
            ids = await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=False)
        if not ids:
            raise InvalidRequest("the answer is empty")
        return list(ids)

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = self._tokenizer.encode(prompt)
        elif getattr(self._tokenizer, "chat_template", None):
            ids = self._tokenizer.encode(self._render(prompt), add_special_tokens=False)
        elif len(prompt) == 1 and prompt[0].role == "user":
            ids = self._tokenizer.encode(prompt[0].content)
        else:
            raise Unsupported(
                "this base model has no chat template; send one user message, or use the completions endpoint"
            )
        if not ids:
            raise InvalidRequest("the prompt is empty")
        return list(ids)

    def _render(self, messages: tuple[ChatMessage, ...]) -> str:
        from jinja2 import TemplateError

        conversation = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template refuses the conversation: {error}") from error
        return str(text)
