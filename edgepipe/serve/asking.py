"""From a request's body to the sequences that it wants."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgepipe.coordinator.models import GenerationDefaults
from edgepipe.coordinator.text import Message, TemplateRefused, Tokenizer, check_length
from edgepipe.core.sampling import Sampling
from edgepipe.errors import ModelError, PromptTooLong, UsageError
from edgepipe.serve.errors import Refusal, refusal_of
from edgepipe.serve.requests import Body, ChatBody, CompletionBody

SMALLEST_NUCLEUS = 1e-9
"""What top_p 0 means: the likeliest token alone."""
_SEEDS = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The model as clients see it. `names` are those that a request may call it by."""

    name: str
    names: Collection[str]
    created_s: int
    max_positions: int
    vocab_size: int
    eos_ids: Collection[int]
    generation: GenerationDefaults

    def check_name(self, name: str) -> None:
        """Raise Refusal for another model."""
        if name not in self.names:
            raise Refusal(
                404,
                f"The model '{name}' is not served here: ask for '{self.name}'.",
                param="model",
                code="model_not_found",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One sequence that a request wants."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stops: Sequence[str]


def chat_prompts(body: ChatBody, tokenizer: Tokenizer) -> list[list[int]]:
    """The one prompt of a conversation. Raises Refusal."""
    if not tokenizer.has_template:
        raise Refusal(400, "The model has no chat template: use /v1/completions.", param="messages")
    messages: list[Message] = [
        {"role": "system" if each.role == "developer" else each.role, "content": each.content}
        for each in body.messages
    ]
    try:
        return [tokenizer.chat_ids(messages)]
    except ModelError as error:
        if not isinstance(error.__cause__, TemplateRefused):
            raise
        raise Refusal(
            400,
            f"The model's chat template refuses these messages: {error.__cause__}.",
            param="messages",
            code="invalid_value",
        ) from error


def completion_prompts(
    body: CompletionBody, tokenizer: Tokenizer, vocab_size: int
) -> list[list[int]]:
    """Every prompt's ids. Raises Refusal for ids that the model does not have."""
    prompts = []
    for prompt in body.prompt:
        if isinstance(prompt, str):
            prompts.append(tokenizer.prompt_ids(prompt, raw=True))
            continue
        if max(prompt) >= vocab_size:
            raise Refusal(
                400,
                f"'prompt' holds the token {max(prompt)}, and the vocabulary {vocab_size} tokens.",
                param="prompt",
                code="invalid_value",
            )
        prompts.append(prompt)
    return prompts


def wanted(body: Body, prompts: Sequence[Sequence[int]], served: Served) -> list[Wanted]:
    """The sequences of a request, prompt by prompt, `n` of each. Raises Refusal."""
    samplings = _samplings(body, served)
    param = "messages" if isinstance(body, ChatBody) else "prompt"
    found = []
    for prompt_ids in prompts:
        try:
            room = check_length(len(prompt_ids), body.token_limit, served.max_positions)
        except (PromptTooLong, UsageError) as error:
            raise refusal_of(error, param=param) from error
        found += [
            Wanted(
                prompt_ids=prompt_ids,
                sampling=sampling,
                max_tokens=room,
                stops=tuple(body.stop or ()),
            )
            for sampling in samplings
        ]
    return found


def _samplings(body: Body, served: Served) -> list[Sampling]:
    """One for each of `n` choices: they differ in their seeds alone."""
    theirs = served.generation
    seed = secrets.randbits(64) if body.seed is None else body.seed
    top_p = _first(body.top_p, theirs.top_p, 1.0)
    return [
        Sampling(
            temperature=_first(body.temperature, theirs.temperature, 1.0),
            top_p=max(top_p, SMALLEST_NUCLEUS),
            top_k=int(_first(body.top_k, theirs.top_k, 0)),
            seed=(seed + choice) % _SEEDS,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=_biases(body, served.vocab_size),
            num_likely=body.num_likely,
        )
        for choice in range(body.num_choices)
    ]


def _biases(body: Body, vocab_size: int) -> tuple[tuple[int, float], ...]:
    biases: dict[int, float] = {}
    for name, bias in (body.logit_bias or {}).items():
        token = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else vocab_size
        if token >= vocab_size:
            raise Refusal(
                400,
                f"'logit_bias' names {name!r}, which is no token id below {vocab_size}.",
                param="logit_bias",
                code="invalid_value",
            )
        biases[token] = bias
    return tuple(sorted(biases.items()))


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
