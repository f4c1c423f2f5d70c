"""Converts prompts and answers to token ids and back: chat templates, end tokens, padding.

All commands use these functions, so a text gets the same ids, and the same score, in training, PPO
and evaluation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from salsa_cli.data import Prompt, prompt_json
from salsa_cli.errors import SalsaError, during, one_line
from salsa_cli.formatting import counted, verb

_LONGEST_BEGINNING = 4
"""More tokens than any tokenizer puts before a text (GLM: two)."""

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Chat template for models that have none."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that salsa uses."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    chat_template: str | None

    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...
    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class Tokens:
    """Padded token ids `[B, T]` and the mask `[B, T]` that is True on real tokens."""

    ids: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device) -> "Tokens":
        """A copy on another device."""
        return Tokens(self.ids.to(device), self.mask.to(device))

    def __getitem__(self, rows: torch.Tensor | slice) -> "Tokens":
        return Tokens(self.ids[rows], self.mask[rows])


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and whether it is complete or was cut at the length limit."""

    text: str
    finished: bool = True


def end_token(tokenizer: Tokenizer) -> int:
    """The token that ends an answer.

    Raises:
        SalsaError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise SalsaError("the tokenizer has no eos_token; set one in tokenizer_config.json")
    return tokenizer.eos_token_id


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, to which the ids of an answer can be appended."""
    text, special = _apply_chat_template(tokenizer, prompt)
    return _encode(tokenizer, text, special)


def scored_ids(tokenizer: Tokenizer, prompt: Prompt, answer: Answer) -> list[int]:
    """Token ids of prompt and answer as a reward model reads them.

    Prompt and answer are encoded as one text. A finished answer ends with the end token exactly
    once, also where its text spells the end token out; a truncated answer ends with its last token.
    """
    text, special = _apply_chat_template(tokenizer, prompt)
    ids = _encode(tokenizer, text + answer.text, special)
    if not answer.finished:
        return ids
    end = end_token(tokenizer)
    if end in ids and (said := _without_end(tokenizer, answer.text)) != answer.text:
        ids = _encode(tokenizer, text + said, special)
    return [*ids, end]


def answer_text(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The text that `answer` adds to `prompt`, without special tokens.

    Decoded together with the prompt, because some tokenizers drop the first space of a text.
    """
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    whole = tokenizer.decode([*prompt, *answer], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    return tokenizer.decode(list(answer), skip_special_tokens=True)


def padding_token(name: object, tokenizer: Tokenizer, wanted: str | None) -> str:
    """The token that pads the batches of a classifier: `wanted`, or the tokenizer's own.

    Transformers scores a text at its last token that is not padding, so the pad token must differ
    from the end token; otherwise other tools would score the token before the end token.

    Raises:
        SalsaError: there is no such token, or it is the end token.
    """
    end = end_token(tokenizer)
    token = tokenizer.pad_token if wanted is None else wanted
    index = None if token is None else tokenizer.get_vocab().get(token)
    if token is not None and index is not None and index != end:
        return token
    if wanted is not None:
        found = "is its end token" if index == end else "is not in its vocabulary"
        raise SalsaError(
            f"--pad-token {wanted} {found} ({name}); expected another token, such as <unk>"
        )
    found = "no pad token" if token is None else f"its end token {token} as pad token"
    if token is not None and index is None:
        found = f"the pad token {token}, which is not in its vocabulary"
    raise SalsaError(
        f"{name} has {found}; expected a token that never ends an answer. Choose one with "
        "--pad-token, for example <unk> or a reserved token"
    )


def template_warning(name: object, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> str | None:
    """A warning if prompts and model do not agree about a chat template; None if all is well.

    Either conversations meet a model without a chat template, or plain text meets one that has a
    template, as chat models do; then the first such prompt is shown as the model reads it.
    """
    plain = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not tokenizer.chat_template and len(plain) < len(prompts):
        return (
            f"{name} has no chat template: messages are written as 'User: ...' and 'Assistant: ...'"
        )
    if not tokenizer.chat_template or not plain:
        return None
    read = tokenizer.decode(prompt_ids(tokenizer, plain[0]))
    messages = '"prompt": [{"role": "user", "content": ...}]'
    advice = f"If the model expects conversations, pass messages: {messages}"
    if _holds_messages(plain[0]):
        advice = (
            "It is a list of messages written as text, because a CSV cell can only contain text: "
            f"pass conversations in a JSON Lines or Parquet file, {messages}"
        )
    return (
        f"{name} has a chat template, and {len(plain)} of {counted(len(prompts), 'prompt')} "
        f"{verb(len(plain), 'are')} plain text, to which it is not applied. The model sees the "
        f"first one as {read!r:.200}. {advice}"
    )


def _holds_messages(text: str) -> bool:
    """Whether a text is a list of messages, written as JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return bool(value) and isinstance(value, list) and isinstance(value[0], dict)


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> Tokens:
    """Rows of ids as one tensor, left-padded (for prompts)."""
    return _pad(rows, pad, left=True)


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> Tokens:
    """Rows of ids as one tensor, right-padded."""
    return _pad(rows, pad, left=False)


def _pad(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> Tokens:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return Tokens(ids, mask)


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Positions `[B, T]` of the real tokens, counted from 0, whichever side is padded."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def row_ids(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], source: object
) -> list[tuple[int, ...]]:
    """Token ids of the prompts of a data source, one prompt per row.

    Raises:
        SalsaError: a prompt cannot be rendered or has no token; names the row.
    """
    found = []
    for row, prompt in enumerate(prompts, start=1):
        with during(f"{source}, row {row}"):
            ids = tuple(prompt_ids(tokenizer, prompt))
            if not ids:
                raise SalsaError("the prompt has no tokens")
        found.append(ids)
    return found


def check_rendering(tokenizer: Tokenizer, prompts: Sequence[Prompt], source: object) -> None:
    """Render every conversation of a data source with the chat template.

    Raises:
        SalsaError: the template refuses one; names the row.
    """
    for row, prompt in enumerate(prompts, start=1):
        with during(f"{source}, row {row}"):
            _apply_chat_template(tokenizer, prompt)


def _apply_chat_template(tokenizer: Tokenizer, prompt: Prompt) -> tuple[str, bool]:
    """The text of a prompt, and whether the tokenizer must still add its special tokens.

    Raises:
        SalsaError: the chat template does not accept the conversation; quotes what it says.
    """
    if isinstance(prompt, str):
        return prompt, True
    try:
        text = tokenizer.apply_chat_template(
            prompt_json(prompt),
            tokenize=False,
            add_generation_prompt=True,
            chat_template=tokenizer.chat_template or PLAIN_TEMPLATE,
        )
    except Exception as error:  # raised by the template itself, or by a fault in it
        roles = ", ".join(turn.role for turn in prompt)
        said = one_line(str(error).strip()) or type(error).__name__
        raise SalsaError(
            f"the chat template rejects a conversation with the roles {roles}: {said}"
        ) from error
    return str(text), tokenizer.chat_template is None


def _encode(tokenizer: Tokenizer, text: str, special: bool) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=special))
    # Some tokenizers append the end token to every text; here the answer follows.
    if special and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return _without_second_beginning(tokenizer, ids) if special else ids


def _without_second_beginning(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """A text that was rendered elsewhere may begin with the tokens that the tokenizer adds."""
    if not ids or ids[0] not in ids[1:_LONGEST_BEGINNING]:
        return ids
    marked, bare = (tokenizer.encode("a", add_special_tokens=one) for one in (True, False))
    added = marked[: next((n for n in range(len(marked)) if marked[n:][: len(bare)] == bare), 0)]
    while added and ids[: 2 * len(added)] == 2 * list(added):
        ids = ids[len(added) :]
    return ids


def _without_end(tokenizer: Tokenizer, answer: str) -> str:
    """An answer whose text spells out the end token, as rendered conversations do, without it."""
    end = tokenizer.decode([end_token(tokenizer)]).strip()
    while end and answer.rstrip().endswith(end):
        answer = answer.rstrip()[: -len(end)]
    return answer
