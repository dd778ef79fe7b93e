"""What clients send: the bodies of /v1/chat/completions and /v1/completions.

Every parameter either does what OpenAI's API reference says, or is refused by its name. Extension:
`top_k`. Accepted without any effect, since they only label a request: `user`,
`safety_identifier`, `metadata` and `prompt_cache_key`. A parameter that is not supported may be
null, or have the value that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError, from_json

from edgepipe.core.sampling import MAX_BIASES, MAX_LIKELY
from edgepipe.serve.errors import Refusal

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 512
MAX_CHOICES = 128
_INT64 = 1 << 63

Kind = TypeVar("Kind", bound="Body")
Neutral = Mapping[str, tuple[Any, ...]]
"""Parameters that are not supported, and their values that ask for nothing."""

_NEUTRAL: Neutral = {"store": (False,), "service_tier": ("auto", "default")}
_CHAT_NEUTRAL: Neutral = {
    **_NEUTRAL,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "prompt_cache_retention": (),
}
_COMPLETION_NEUTRAL: Neutral = {**_NEUTRAL, "echo": (False,), "best_of": (1,), "suffix": ("",)}
_MESSAGE_NEUTRAL: Neutral = {
    "name": (),
    "refusal": (),
    "audio": (),
    "annotations": ([],),
    "tool_calls": ([],),
    "function_call": (),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """A message's text: as it is, or in parts, which are lines of their own."""
    if not isinstance(value, list):
        return value
    return "\n".join(_part(part) for part in value)


def _part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise PydanticCustomError(
        "content_part", "only parts of type 'text' are supported, not {kind}", {"kind": repr(kind)}
    )


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """Prompts as a list: of texts, or of token ids."""
    found = value if isinstance(value, list) and not _are_ids(value) else [value]
    if not found or not (all(isinstance(each, str) for each in found) or all(map(_are_ids, found))):
        raise PydanticCustomError("prompt", "give a text, token ids, or a list of either")
    return found


def _are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(token) is int and token >= 0 for token in value)
    )


Count = Annotated[int, Field(ge=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(_Strict):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class MessageBody(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]


class Body(_Strict):
    """What both endpoints take."""

    neutral: ClassVar[Neutral]

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASES)] | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
            BeforeValidator(_stops),
            Field(max_length=MAX_STOPS),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes as server-sent events."""
        return self.stream or False

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with how many tokens there were."""
        return self.stream_options is not None and (self.stream_options.include_usage or False)

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        """At most so many tokens of each answer; None for what fits."""
        return self.max_tokens

    @property
    def num_likely(self) -> int | None:
        """Likeliest tokens to report beside each one; None for no log-probabilities at all."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise Refusal for parameters that contradict each other."""
        if self.stream_options is not None and not self.streams:
            raise _refused("stream_options", "'stream_options' is for streams: set 'stream' too.")


class ChatBody(Body):
    """/v1/chat/completions."""

    neutral = _CHAT_NEUTRAL

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LIKELY)] | None = None

    @property
    def token_limit(self) -> int | None:
        """See Body."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_likely(self) -> int | None:
        """See Body."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """See Body."""
        super().check()
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _refused(
                "max_tokens", "'max_tokens' and 'max_completion_tokens' mean the same: set one."
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise _refused("top_logprobs", "'top_logprobs' wants 'logprobs': set it to true.")


class CompletionBody(Body):
    """/v1/completions."""

    neutral = _COMPLETION_NEUTRAL

    prompt: Annotated[list[str] | list[list[int]], PlainValidator(_prompts)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def token_limit(self) -> int | None:
        """OpenAI's default of 16 where nothing is asked for."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def num_likely(self) -> int | None:
        """See Body."""
        return self.logprobs


def parse(kind: type[Kind], raw: bytes) -> Kind:
    """A body. Raises Refusal, which names the first parameter that is wrong or not supported."""
    try:
        fields = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "The body is not a JSON object.", code="invalid_json")
    fields = _supported(fields, kind.neutral)
    messages = fields.get("messages")
    if isinstance(messages, list):
        fields["messages"] = [
            _supported(message, _MESSAGE_NEUTRAL, f"messages.{index}.")
            if isinstance(message, dict)
            else message
            for index, message in enumerate(messages)
        ]
    try:
        body = kind.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from None
    body.check()
    return body


def _supported(fields: dict[str, Any], neutral: Neutral, where: str = "") -> dict[str, Any]:
    """Without the parameters that ask for nothing. Raises Refusal for one that asks for more."""
    for name, value in fields.items():
        if value is not None and name in neutral and value not in neutral[name]:
            raise Refusal(
                400,
                f"'{where}{name}' is not supported by this server: leave it out.",
                param=where + name,
                code="unsupported_parameter",
            )
    return {name: value for name, value in fields.items() if name not in neutral}


def _invalid(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False, include_input=False)[0]
    param = _name(first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return Refusal(
                400,
                f"'{param}' is not a parameter that this server knows: leave it out.",
                param=param,
                code="unknown_parameter",
            )
        case "missing":
            return Refusal(
                400, f"'{param}' is missing.", param=param, code="missing_required_parameter"
            )
        case _:
            return _refused(param, f"'{param}' is wrong: {first['msg']}.")


def _name(location: tuple[int | str, ...]) -> str:
    """`temperature`, `messages.0.role`: without the names of a union's members."""
    depth = 3 if location[0] in {"messages", "stream_options"} else 1
    return ".".join(str(part) for part in location[:depth])


def _refused(param: str, message: str) -> Refusal:
    return Refusal(400, message, param=param, code="invalid_value")
