"""Tokenizers of one token per byte, to be read as text, with templates of many kinds."""

from __future__ import annotations

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.dataset import Example
from edgepipe.core.training import IGNORED

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The same, saying itself what the assistant said."""

INST = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ ' ' + m.content | trim + '</s>' }}{% else %}{{ raise_exception('No system role.') }}"
    "{% endif %}{% endfor %}"
)
"""As Mistral's: nothing asks for an answer, and there is no system role."""

THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As Qwen 3's: only the last answer is shown with its thought."""

COUNTING = (
    "{{ messages | length }} messages. {% for m in messages %}{{ m.role }}: {{ m.content }} "
    "{% endfor %}"
)
"""A longer conversation begins otherwise than a shorter one."""


def byte_tokenizer(template: str | None = CHATML, *, eos: str | None = "</s>") -> Tokenizer:
    """A tokenizer that begins a text with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *alphabet])}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return Tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token=eos, chat_template=template
        )
    )


def shown(tokenizer: Tokenizer, example: Example) -> str:
    """An example's tokens as text."""
    text: str = tokenizer._inner.decode(example.token_ids.tolist())
    return text


def learned(tokenizer: Tokenizer, example: Example) -> list[str]:
    """The texts that are learned, run by run."""
    runs: list[list[int]] = [[]]
    for target in example.targets.tolist():
        if target == IGNORED:
            runs.append([])
        else:
            runs[-1].append(target)
    return [tokenizer._inner.decode(run) for run in runs if run]
