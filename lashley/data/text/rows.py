"""What a row of text is: its fields, its prompt and its completion.

====================================  =========================  ==================================================
a row                                 its fields                 what counts as its answer
====================================  =========================  ==================================================
``"text"``                            text                       the whole text
``(prompt, completion)``              prompt, completion         the completion
``{"prompt": ..., "completion": .}``  prompt, completion         the completion
``{"question": ..., "answer": ...}``  question, answer           the answer
``{"text": ...}``                     text                       the whole text
``{"messages": [...]}``               messages                   every turn of the assistant
``[{"role": ..., "content": ...}]``   messages                   every turn of the assistant
====================================  =========================  ==================================================

Other columns of a mapping do no harm. A mapping that fits two of these forms is refused: `columns` says which is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lashley.errors import DataError, nearest

__all__ = [
    "ASSISTANT",
    "QUESTION_ANSWER",
    "Example",
    "Message",
    "Template",
    "as_template",
    "check_iterable",
    "read_rows",
]

ASSISTANT = "assistant"

Message = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """How the fields of a row become a prompt and a completion: ``{name}`` stands for the field of that name.

    Everything else is taken as it stands, white space too. A tokenizer whose words begin with a space wants that space
    at the start of the completion, where the model has to make it.
    """

    prompt: str
    completion: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs, in order."""
        return tuple(dict.fromkeys(_FIELD.findall(self.prompt + self.completion)))

    def fill(self, fields: Mapping[str, str]) -> tuple[str, str]:
        """Prompt and completion of one row, which has these fields."""
        return (
            _FIELD.sub(lambda found: fields[found[1]], self.prompt),
            _FIELD.sub(lambda found: fields[found[1]], self.completion),
        )

    def __str__(self) -> str:
        return f"{self.prompt!r} + {self.completion!r}"


_FIELD = re.compile(r"\{(\w+)\}")

QUESTION_ANSWER = Template("Question: {question}\nAnswer:", " {answer}")

# By their fields: the template of a plain text, and the one that fills the turns of a chat.
_FORMS: dict[tuple[str, ...], tuple[Template, Template | None]] = {
    ("prompt", "completion"): (Template("{prompt}", "{completion}"), Template("{prompt}", "{completion}")),
    ("question", "answer"): (QUESTION_ANSWER, Template("{question}", "{answer}")),
    ("text",): (Template("", "{text}"), None),
}
_MESSAGES = "messages"
_KNOWN = "text; prompt and completion; question and answer; or messages"


@dataclass(frozen=True)
class Example:
    """One row, read.

    Attributes:
        row: its number, from 0.
        prompt, completion: the two parts of a plain text; empty for a chat.
        messages: the turns of a chat; None for a plain text.
        template: what made the plain text or the turns; None where turns came as they are.
    """

    row: int
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] | None = None
    template: Template | None = None


def as_template(template: Template | tuple[str, str] | None) -> Template | None:
    """A template, or the pair of texts that makes one."""
    if template is None or isinstance(template, Template):
        return template
    if isinstance(template, (tuple, list)) and len(template) == 2 and all(isinstance(part, str) for part in template):
        return Template(*template)
    raise DataError(
        f"Expected template to be a pair of texts such as ('Q: {{question}}\\nA:', ' {{answer}}'), got {template!r}."
    )


def read_rows(
    rows: Iterable[Any],
    *,
    columns: Mapping[str, str] | None = None,
    template: Template | None = None,
    chat: bool | None = None,
) -> list[Example]:
    """Every row as an `Example`. A generator is read once.

    Args:
        columns: which column of a mapping holds a field, as ``{"question": "q", "answer": "a"}``.
        template: for the fields of a row; default: the form's own (`QUESTION_ANSWER`, or the texts as they are).
        chat: True makes a user's and an assistant's turn of prompt and completion; False refuses messages.

    Raises:
        DataError: no rows, a row of another form, a field that is missing, empty or no text; the row is named.
    """
    check_iterable(rows)
    reader = _Reader(_checked(columns), template, chat)
    examples = []
    for number, row in enumerate(rows):
        try:
            examples.append(reader.read(number, row))
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from None
    if not examples:
        raise DataError("Expected at least one row, got none. Is the file empty, or the generator already used up?")
    return examples


def check_iterable(rows: object) -> None:
    """Refuse what would not iterate rows.

    Raises:
        DataError: a single row, a data frame (which iterates the names of its columns), or nothing that iterates.
    """
    wanted = f"Expected rows to be an iterable of texts, pairs, mappings or chats, got {type(rows).__name__}."
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DataError(f"{wanted} Wrap a single row in a list: [row].")
    if hasattr(rows, "columns") and hasattr(rows, "iloc"):
        raise DataError(f"{wanted} Give frame.to_dict('records').")


def _checked(columns: Mapping[str, str] | None) -> dict[str, str] | None:
    if columns is None:
        return None
    form = tuple(name for name in ("messages", "prompt", "completion", "question", "answer", "text") if name in columns)
    if len(form) != len(columns) or form not in (*_FORMS, (_MESSAGES,)):
        raise DataError(
            f"Expected columns to name the column of each field ({_KNOWN}), as {{'question': 'q', 'answer': 'a'}}, "
            f"got {dict(columns)!r}."
        )
    return dict(columns)


class _Reader:
    def __init__(self, columns: dict[str, str] | None, template: Template | None, chat: bool | None) -> None:
        self.columns = columns
        self.template = template
        self.chat = chat

    def read(self, number: int, row: Any) -> Example:
        if isinstance(row, str):
            return self._plain(number, ("text",), {"text": row})
        if isinstance(row, Mapping):
            return self._mapping(number, row)
        if isinstance(row, (tuple, list)) and len(row) == 2 and all(isinstance(part, str) for part in row):
            return self._plain(number, ("prompt", "completion"), dict(zip(("prompt", "completion"), row, strict=True)))
        if isinstance(row, (tuple, list)) and row and all(isinstance(part, Mapping) for part in row):
            return self._messages(number, row)
        raise DataError(
            f"expected a text, a pair (prompt, completion), a mapping with {_KNOWN}, or a list of messages, got "
            f"{_described(row)}."
        )

    def _mapping(self, number: int, row: Mapping[Any, Any]) -> Example:
        if self.columns is not None:
            absent = [column for column in self.columns.values() if column not in row]
            if absent:
                raise DataError(f"there is no column {absent[0]!r}. {_names(row)} {nearest(absent[0], map(str, row))}")
            named = {field: row[column] for field, column in self.columns.items()}
            form = tuple(self.columns)
            form = next((known for known in _FORMS if set(known) == set(form)), form)
        else:
            named = dict(row)
            form = self._form(row)
        if form == (_MESSAGES,):
            return self._messages(number, named[_MESSAGES])
        return self._plain(number, form, {**row, **named})

    def _form(self, row: Mapping[Any, Any]) -> tuple[str, ...]:
        found = [form for form in (*_FORMS, (_MESSAGES,)) if all(field in row for field in form)]
        if self.template is not None and all(field in row for field in self.template.fields):
            return ()  # the template names the columns itself
        if len(found) == 1:
            return found[0]
        if not found:
            raise DataError(
                f"expected columns {_KNOWN}. {_names(row)} Say which is which: "
                "columns={'question': ..., 'answer': ...} (--columns question=... answer=...)."
            )
        several = " as well as ".join(" and ".join(form) for form in found)
        raise DataError(
            f"it has {several}, so that it could be read in {len(found)} ways. {_names(row)} Say which is meant: "
            f"columns={ {field: field for field in found[0]}!r} (--columns "
            f"{' '.join(f'{field}={field}' for field in found[0])})."
        )

    def _plain(self, number: int, form: tuple[str, ...], fields: Mapping[Any, Any]) -> Example:
        plain, turns = _FORMS.get(form, (None, None))
        template = self.template or (turns if self.chat else plain)
        if template is None:
            raise DataError(
                "a plain text has no turns to make a chat of. Give prompts and completions, or leave out chat (--chat)."
            )
        absent = [name for name in template.fields if name not in fields]
        if absent:
            raise DataError(f"the template {template} asks for {absent[0]!r}, which is not there. {_names(fields)}")
        texts = {name: _text(fields[name], f"column {name!r}") for name in template.fields}
        prompt, completion = template.fill(texts)
        if not completion.strip():
            raise DataError(f"its answer is empty ({completion!r}). Leave the row out, or give it one.")
        if self.chat:
            turn = ({"role": "user", "content": prompt}, {"role": ASSISTANT, "content": completion})
            return Example(number, messages=turn, template=template)
        return Example(number, prompt, completion, template=template)

    def _messages(self, number: int, messages: Any) -> Example:
        if self.chat is False:
            raise DataError("it is a chat, which takes the tokenizer's chat template. Leave out chat=False.")
        if self.template is not None:
            raise DataError(
                f"it is a chat, which the template {self.template} does not apply to. Leave the template out."
            )
        wanted = "expected messages to be a list of {'role': ..., 'content': ...}"
        if not isinstance(messages, (tuple, list)) or not messages:
            raise DataError(f"{wanted}, got {_described(messages)}.")
        for place, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise DataError(f"{wanted}, got {_described(message)} as message {place}.")
            if message["role"] == ASSISTANT and message.get("content") is None:
                continue  # a call of a tool
            _text(message.get("content"), f"the content of message {place}")
        if not any(message["role"] == ASSISTANT and (message.get("content") or "").strip() for message in messages):
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise DataError(
                f"no turn of the role {ASSISTANT!r} has a text, so nothing would count; its roles: {roles}."
            )
        return Example(number, messages=tuple(dict(message) for message in messages))


def _text(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    raise DataError(f"expected {what} to be a text, got {_described(value)}.")


def _names(row: Iterable[Any]) -> str:
    names = ", ".join(map(repr, row))
    return f"Its columns are {names}." if names else "It has no columns."


def _described(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
