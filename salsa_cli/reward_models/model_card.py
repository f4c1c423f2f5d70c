"""The model card (README.md) of a trained reward model."""

from salsa_cli import VERSION
from salsa_cli.config.command_line import command_line
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.formatting import counted, figure, plain
from salsa_cli.models.tokenization import PLAIN_TEMPLATE
from salsa_cli.reward_models.assessment import Assessment
from salsa_cli.reward_models.report_page import TrainingReport
from salsa_cli.reward_models.results import proves_nothing
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.weights import cards


def write(
    trained: TrainingReport, member: Assessment, scale: RewardScale, name: str, template: str | None
) -> str:
    """The model card of one model.

    Args:
        trained: the training run.
        member: the assessment of this model.
        scale: the scale of its raw scores.
        name: the path of its folder.
        template: the chat template of its tokenizer.
    """
    config, accuracy = trained.config, member.accuracy
    data = cards.cell(cards.shown(str(config.data)))
    held_out = f"{config.held_out_share:g} of {data}, by prompt"
    if config.eval_data is not None:
        held_out = cards.cell(cards.shown(config.eval_data))
    command = plain(command_line("train-rm", config, cards.shown), 10_000)
    categories = "".join(
        f"| {one.name} | {one.n} | {one.accuracy:.1%} | {one.low:.1%} to {one.high:.1%} |\n"
        for one in (accuracy, *member.categories)
    )
    head = cards.front_matter(
        (config.model,),
        library="peft" if _is_adapter(config) else "transformers",
        tags=("reward-model", "salsa"),
        relation="adapter" if _is_adapter(config) else "finetune",
        pipeline="text-classification",
    )
    pairs = counted(trained.pairs, "preference pair")
    return f"""{head}
# {"The adapter of a reward model" if _is_adapter(config) else "A reward model"}

Trained from {cards.cell(cards.shown(config.model))} by `salsa train-rm` {VERSION} on {pairs} of
{data}, with the Bradley-Terry loss: the probability that one answer is
preferred to another is sigmoid(score of the first - score of the second).

    {command}

## Evaluation

On held-out pairs ({held_out}); ties count as half, with 95% Wilson intervals:

| pairs | n | accuracy | interval |
|---|---|---|---|
{categories}
Mean score difference of the chosen and the rejected answer: {figure(member.margin)}; expected
calibration error: {member.calibration_error:.1%}. The model knows only the preferences in its data.
{_caveats(trained, member)}
## How to use it

A higher score is better. A finished answer ends with the end token.

```python
{_recipe(trained.config, scale, name, template)}```

`salsa ppo --reward` and `salsa eval --judge rm:` compute the same scores.
"""


def _caveats(trained: TrainingReport, member: Assessment) -> str:
    """Caveats about the figures and the data, one per line."""
    lines, whole = [], member.accuracy
    if whole.low <= 0.5 <= whole.high:
        lines.append(f"{proves_nothing(whole.n)}.")
    for given in trained.sources:
        for one in given.dropped:
            lines.append(f"{cards.shown(given.name)}: left out {one.text()}.")
        if given.cut:
            lines.append(
                f"{cards.shown(given.name)}: {counted(len(given.cut), 'pair')} cut to "
                f"{trained.config.max_length} tokens; the code below does not truncate."
            )
    return "".join(f"\n- {line}" for line in lines) + ("\n" if lines else "")


def _is_adapter(config: TrainRMConfig) -> bool:
    return config.lora_save == "adapter"


def _recipe(config: TrainRMConfig, scale: RewardScale, name: str, template: str | None) -> str:
    """Code that computes the scores of salsa."""
    mean = f"{'-' if scale.mean >= 0 else '+'} {abs(scale.mean):.9g}"
    return f'''import torch
{_loading(config, name)}
tokenizer = AutoTokenizer.from_pretrained({name!r})


@torch.no_grad()
def score(prompt, answer):
    """`prompt` is a text, or a list of messages."""
    special = True
    if not isinstance(prompt, str):
{_chat(template)}    ids = tokenizer.encode(prompt + answer, add_special_tokens=special)
    if special and ids[-1] == tokenizer.eos_token_id:
        ids.pop()  # some tokenizers append it
    ids.append(tokenizer.eos_token_id)
    raw = float(model(torch.tensor([ids])).logits)
    return (raw {mean}) / {scale.std:.9g}  # mean 0, deviation 1 on its data
'''


def _loading(config: TrainRMConfig, name: str) -> str:
    """Code that loads the model; the configuration of an adapter lacks the number of labels."""
    if _is_adapter(config):
        return f"""\
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

model = AutoPeftModelForSequenceClassification.from_pretrained({name!r}, num_labels=1).eval()"""
    return f"""\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained({name!r}).eval()"""


def _chat(template: str | None) -> str:
    if template is not None:
        return """\
        prompt = tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
        special = False  # the template has added them
"""
    return f"""\
        # The model has no chat template; it was trained with this one.
        template = {PLAIN_TEMPLATE!r}
        prompt = tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True, chat_template=template
        )
"""
