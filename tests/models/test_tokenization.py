"""What a model reads, and what is read back."""

import json
from pathlib import Path

import pytest
import torch

from salsa_cli.data import Message
from salsa_cli.errors import SalsaError
from salsa_cli.models import loading, tokenization
from salsa_cli.models.tokenization import Answer, Tokenizer
from tests.support import tiny

TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)
QUESTION = (Message("user", "the cat"),)
THE, CAT, SAT, BOS, EOS = 4, 6, 9, 1, 2


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def chat() -> Tokenizer:
    tokenizer = tiny.tokenizer(words=[*tiny.WORDS, "user", "assistant"])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_finished_answer_closes_with_one_end_token(plain: Tokenizer) -> None:
    assert tokenization.scored_ids(plain, "the cat", Answer(" sat")) == [THE, CAT, SAT, EOS]
    assert tokenization.scored_ids(plain, "the cat", Answer(" sat", finished=False)) == [
        THE,
        CAT,
        SAT,
    ]


def test_a_tokenizer_that_ends_every_text_itself(plain: Tokenizer) -> None:
    class Ending:
        eos_token_id = EOS

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            ids = plain.encode(text, add_special_tokens=False)
            return [BOS, *ids, EOS] if add_special_tokens else ids

    ending: Tokenizer = Ending()  # type: ignore[assignment]
    assert tokenization.prompt_ids(ending, "the cat") == [BOS, THE, CAT]
    assert tokenization.scored_ids(ending, "the cat", Answer(" sat")) == [BOS, THE, CAT, SAT, EOS]


def test_a_chat_template_writes_its_special_tokens_once(chat: Tokenizer) -> None:
    user, assistant = (chat.get_vocab()[word] for word in ("user", "assistant"))
    expected = [BOS, user, THE, CAT, BOS, assistant]
    assert tokenization.prompt_ids(chat, QUESTION) == expected
    assert tokenization.scored_ids(chat, QUESTION, Answer("sat")) == [*expected, SAT, EOS]


def test_a_conversation_without_a_template_is_written_plainly(plain: Tokenizer) -> None:
    text, special = tokenization._apply_chat_template(plain, (Message("user", "Why?"),))
    assert text == "User: Why?\n\nAssistant:"
    assert special


def test_a_template_that_prompts_do_not_use_is_worth_a_warning(
    plain: Tokenizer, chat: Tokenizer
) -> None:
    assert tokenization.template_warning("m", plain, ["text"]) is None
    assert tokenization.template_warning("m", chat, [QUESTION]) is None
    warning = tokenization.template_warning("m", plain, ["text", QUESTION])
    assert warning is not None and warning.startswith("m has no chat template")
    warning = tokenization.template_warning("m", chat, [QUESTION, "the cat", "sat"])
    assert warning is not None
    assert warning.startswith("m has a chat template, and 2 of 3 prompts are plain text")
    assert "The model sees the first one as 'the cat'" in warning


def test_messages_in_a_cell_of_text_get_advice_that_fits_csv() -> None:
    chat = tiny.tokenizer(chat_template="{% for m in messages %}{{ m.content }} {% endfor %}")
    cell = json.dumps([{"role": "user", "content": "the cat"}])
    warning = tokenization.template_warning("m", chat, [cell, "sat"])
    assert warning is not None
    assert "It is a list of messages written as text, because a CSV cell can only" in warning
    assert "JSON Lines or Parquet file" in warning and "If the model expects" not in warning
    for text in ("[1, 2]", "[]", "{}", "[the", "3"):
        assert "If the model expects" in (tokenization.template_warning("m", chat, [text]) or "")


class Beginning:
    """A tokenizer that puts tokens before every text, and knows them in a text."""

    eos_token_id = EOS

    def __init__(self, plain: Tokenizer, added: list[int]) -> None:
        self._plain = plain
        self._added = added

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = self._plain.encode(text, add_special_tokens=False)
        return [*self._added, *ids] if add_special_tokens else ids


@pytest.mark.parametrize("added", [[BOS], [BOS, 3], [EOS]])
def test_a_prompt_that_was_rendered_elsewhere_begins_once(
    plain: Tokenizer, added: list[int]
) -> None:
    tokenizer: Tokenizer = Beginning(plain, added)  # type: ignore[assignment]
    spelled = " ".join({BOS: "<s>", 3: "<unk>", EOS: "</s>"}[token] for token in added)
    expected = [*added, THE, CAT]
    assert tokenization.prompt_ids(tokenizer, "the cat") == expected
    assert tokenization.prompt_ids(tokenizer, f"{spelled} the cat") == expected
    assert tokenization.prompt_ids(tokenizer, f"{spelled} {spelled} the cat") == expected
    assert tokenization.prompt_ids(tokenizer, "the the cat") == [*added, THE, THE, CAT]


@pytest.mark.parametrize("end", ["</s>", " </s>", "</s>\n", " </s> </s>", " </s>\n </s> \n"])
def test_an_answer_that_spells_out_its_end_ends_once(
    plain: Tokenizer, chat: Tokenizer, end: str
) -> None:
    assert tokenization.scored_ids(plain, "the cat", Answer(f" sat{end}")) == [THE, CAT, SAT, EOS]
    *_, last, ending = tokenization.scored_ids(chat, QUESTION, Answer(f"sat{end}"))
    assert (last, ending) == (SAT, EOS)
    assert tokenization.scored_ids(chat, QUESTION, Answer(f"sat{end}"))[-2:] == [SAT, EOS]


def test_what_a_chat_template_refuses_is_quoted_with_the_row(chat: Tokenizer) -> None:
    strict = tiny.tokenizer(words=[*tiny.WORDS, "user", "assistant"])
    strict.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}" + TEMPLATE
    )
    asked = (Message("system", "the"), *QUESTION)
    words = r"p\.jsonl, row 2: .*roles system, user: System role not supported"
    with pytest.raises(SalsaError, match=words):
        tokenization.row_ids(strict, [QUESTION, asked], "p.jsonl")
    with pytest.raises(SalsaError, match=words):
        tokenization.check_rendering(strict, ["the", asked], "p.jsonl")
    strict.chat_template = "{{ messages[5].content.strip() }}"
    with pytest.raises(SalsaError, match=r"row 1: the chat template rejects .* roles user: "):
        tokenization.check_rendering(strict, [QUESTION], "p.jsonl")


def test_a_tokenizer_without_an_end_token(plain: Tokenizer) -> None:
    endless = tiny.tokenizer(eos_token=None)
    with pytest.raises(SalsaError, match="no eos_token"):
        tokenization.scored_ids(endless, "the", Answer(" cat"))


def test_padding_and_positions() -> None:
    left = tokenization.pad_left([[5, 6, 7], [8]], pad=0)
    assert left.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left.mask.tolist() == [[True, True, True], [False, False, True]]
    assert tokenization.position_ids(left.mask).tolist() == [[0, 1, 2], [0, 0, 0]]
    right = tokenization.pad_right([[5, 6, 7], [8]], pad=0)
    assert right.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert tokenization.position_ids(right.mask[:, :2]).tolist() == [[0, 1], [0, 0]]
    assert left[torch.tensor([1])].ids.tolist() == [[0, 0, 8]]


def test_the_blank_before_an_answer_survives(stories_model: Path) -> None:
    """A Llama tokenizer drops the first blank of whatever it decodes."""
    tokenizer = loading.load_tokenizer(stories_model)
    whole = tokenizer.encode("Once there was a bug. The bug was red.")
    prompt = tokenization.prompt_ids(tokenizer, "Once there was a bug.")
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode(whole[len(prompt) :]) == "The bug was red."
    assert tokenization.answer_text(tokenizer, prompt, whole[len(prompt) :]) == " The bug was red."
