"""From the turns of a chat to one text, and where in it the assistant speaks.

Where the template marks what the assistant generates (``{% generation %}``), its marks are taken. Elsewhere a turn is
found by rendering the chat once more with a placeholder in its stead: what stands before and after the placeholder
stands before and after the answer, whatever the template trims or adds. The token that ends a turn (``<|eot_id|>``,
``<|im_end|>``, ``</s>``), where one follows, counts with it, as the EOS of a plain text does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lashley.data.text.rows import ASSISTANT, Message
from lashley.data.text.specials import gives_offsets
from lashley.errors import DataError

__all__ = ["Rendered", "render_chat"]

_PLACEHOLDER = "ANSWERedc1b2f7STANDSHERE"
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Rendered(NamedTuple):
    """A text as it goes into the tokenizer.

    Attributes:
        text: the whole.
        spans: characters ``[start, end)`` that are answer, in order.
        closed: after the last span stands a special token that ends the turn.
        chat: a chat template wrote it.
        answered: an answer has the last word.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    closed: bool = False
    chat: bool = False
    answered: bool = True


def render_chat(messages: Sequence[Message], tokenizer: Any, variables: Mapping[str, Any]) -> Rendered:
    """The text of a chat under the tokenizer's template, with the assistant's turns.

    Args:
        variables: of the template, such as ``date_string``. ``system`` is the content of a first message of that role
            for chats that have none.

    Raises:
        DataError: the tokenizer has no template, the template fails, or it hides where a turn begins and ends.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "a chat takes a chat template, and the tokenizer has none. Set tokenizer.chat_template, take the tokenizer "
            "of an instruction-tuned model, or give (prompt, completion) pairs."
        )
    variables = dict(variables)
    system = variables.pop("system", None)
    if system is not None and not any(message["role"] == "system" for message in messages):
        messages = [{"role": "system", "content": system}, *messages]
    text = _render(messages, tokenizer, variables)
    spans = _marked(messages, tokenizer, variables) if _GENERATION.search(_template(tokenizer)) else []
    answered = messages[-1]["role"] == ASSISTANT
    if spans:
        last = text[: spans[-1][1]].rstrip()
        closed = last.endswith(tuple(_ends(tokenizer))) or _end_of_turn(text, spans[-1][1], tokenizer) > spans[-1][1]
        return Rendered(text, tuple(spans), closed, True, answered)
    closed = False
    for place, message in enumerate(messages):
        if message["role"] == ASSISTANT and (message.get("content") or "").strip():
            start, end = _turn(text, messages, place, tokenizer, variables)
            after = _end_of_turn(text, end, tokenizer)
            closed = after > end
            spans.append((start, after))
    return Rendered(text, tuple(spans), closed, True, answered)


def _render(messages: Sequence[Message], tokenizer: Any, variables: Mapping[str, Any]) -> str:
    # Templates raise whatever they like: of jinja2, TypeError, or through raise_exception.
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **variables)
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the tokenizer's chat template refused it: {type(error).__name__}: {error}. Its roles are {roles}; not "
            "every template knows every role or order."
        ) from error
    return text


def _marked(messages: Sequence[Message], tokenizer: Any, variables: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The characters that the template itself marks as generated; none where it cannot be told."""
    if not gives_offsets(tokenizer):
        return []
    found = tokenizer.apply_chat_template(
        list(messages),
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
        **variables,
    )
    spans: list[tuple[int, int]] = []
    before = False
    for generated, (start, end) in zip(found["assistant_masks"], found["offset_mapping"], strict=True):
        if generated and before:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        elif generated:
            spans.append((start, end))
        before = bool(generated)
    return spans


def _turn(
    text: str, messages: Sequence[Message], place: int, tokenizer: Any, variables: Mapping[str, Any]
) -> tuple[int, int]:
    """Where the content of one message stands in the text."""
    other = [*messages[:place], {**messages[place], "content": _PLACEHOLDER}, *messages[place + 1 :]]
    before, found, after = _render(other, tokenizer, variables).partition(_PLACEHOLDER)
    start, end = len(before), len(text) - len(after)
    if not found or _PLACEHOLDER in after or end <= start or text[:start] != before or text[end:] != after:
        raise DataError(
            f"the tokenizer's chat template does not show where the assistant's message {place} begins and ends. Mark "
            "it in the template with {% generation %} and {% endgeneration %}, or give (prompt, completion) pairs."
        )
    return start, end


def _end_of_turn(text: str, end: int, tokenizer: Any) -> int:
    """Where the special token that follows the answer ends; ``end`` itself where none follows."""
    token_at = end + len(text[end:]) - len(text[end:].lstrip())
    found = [token for token in _ends(tokenizer) if text.startswith(token, token_at)]
    return token_at + len(max(found, key=len)) if found else end


def _ends(tokenizer: Any) -> list[str]:
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [token for token in dict.fromkeys([*special, *tokenizer.all_special_tokens]) if token.strip()]


def _template(tokenizer: Any) -> str:
    template = tokenizer.get_chat_template()
    return str(template)
