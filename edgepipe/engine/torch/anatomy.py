"""What stands before, in and after a model's stack of layers, found by running it on meta.

    embed_tokens, wpe, …  │  layers.0 … layers.n-1  │  norm, lm_head, …
          before          │        the stack        │      after

Order of definition says little about order of use, so the model itself is run, once with every
layer emptied, and once per kind of layer to see the keys and values that it caches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from edgepipe.engine.torch.architecture import LIBRARY_ERRORS, one_line
from edgepipe.errors import ModelError

_PROBE_TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """What one layer caches per token: `num_heads` keys and as many values."""

    num_heads: int
    key_dim: int
    value_dim: int

    @property
    def num_values(self) -> int:
        """Numbers cached per token."""
        return self.num_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The parts of a model.

    `stack` is the path of its list of layers. `before` and `after` are the modules outside the
    stack that hold weights of their own. `tuples` says that a layer returns (hidden state, …)
    and not the bare hidden state. `tied` maps a weight to the one it shares.
    """

    stack: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    tuples: bool
    kv: tuple[KVShape | None, ...]
    tied: dict[str, str]

    @property
    def num_layers(self) -> int:
        """Length of the stack."""
        return len(self.kv)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a stage holds of a model: layers [first, end), with or without the ends."""

    first: int
    end: int
    embedding: bool
    head: bool

    @property
    def layers(self) -> Sequence[int]:
        """The stage's own layers."""
        return range(self.first, self.end)

    def outside(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The stage's own modules outside the stack."""
        before = anatomy.before if self.embedding else ()
        return (*before, *(anatomy.after if self.head else ()))


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A module's input, however it was passed."""
    return args[0] if args else next(iter(kwargs.values()), None)


def own_weights(model: Any, module_name: str) -> dict[str, torch.Tensor]:
    """A module's own parameters and persistent buffers, by full name; not its children's."""
    module = model.get_submodule(module_name)
    prefix = f"{module_name}." if module_name else ""
    buffers = {
        name: tensor
        for name, tensor in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set  # noqa: SLF001
    }
    named = {**dict(module.named_parameters(recurse=False)), **buffers}
    return {prefix + name: tensor for name, tensor in named.items()}


def layer_weights(model: Any, anatomy: Anatomy, index: int) -> dict[str, torch.Tensor]:
    """All weights of layer `index`, by full name."""
    prefix = f"{anatomy.stack}.{index}."
    layer = model.get_submodule(anatomy.stack)[index]
    return {prefix + name: tensor for name, tensor in layer.state_dict(keep_vars=True).items()}


def examine(model: Any) -> Anatomy:
    """Probe a model on the meta device. Raises ModelError where it is not a plain stack."""
    stack = _find_stack(model)
    try:
        with _plain_rotary(model):
            before, after, tuples = _probe_outside(model, stack)
            kv = _probe_layers(model, stack, tuples=tuples)
    except LIBRARY_ERRORS as error:
        kind, reason = model.config.model_type, one_line(error)
        raise ModelError(
            f"The architecture {kind!r} cannot be cut into stages: {reason}."
        ) from error
    return Anatomy(
        stack=stack,
        before=before,
        after=after,
        tuples=tuples,
        kv=kv,
        tied=dict(model.all_tied_weights_keys),
    )


def _find_stack(model: Any) -> str:
    num_layers = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers > 0:
            return str(name)
    raise ModelError(f"The architecture {model.config.model_type!r} has no stack of layers.")


class _TupleExpected(Exception):
    """A layer's output was indexed before it was used."""


class _CacheReached(Exception):
    """A layer handed keys and values to the cache."""

    def __init__(self, kv: KVShape) -> None:
        super().__init__()
        self.kv = kv


class _ProbeCache(Cache):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)

    def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> Any:
        raise _CacheReached(
            KVShape(num_heads=keys.shape[1], key_dim=keys.shape[3], value_dim=values.shape[3])
        )


def cache_argument(model: Any) -> str:
    """What the model's own forward calls its cache: transformers 5.24 renamed it."""
    accepted = inspect.signature(model.forward).parameters
    return "cache" if "cache" in accepted else "past_key_values"


def _run_on_meta(model: Any) -> Any:
    ids = torch.zeros((1, _PROBE_TOKENS), dtype=torch.int64, device="meta")
    positions = torch.arange(_PROBE_TOKENS, device="meta")[None]
    accepted = inspect.signature(model.forward).parameters
    optional = {"position_ids": positions} if "position_ids" in accepted else {}
    cache = {cache_argument(model): _ProbeCache()}
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=True, **cache, **optional)


@contextmanager
def _plain_rotary(model: Any) -> Iterator[None]:
    """Keep rotary tables that depend on the data from looking at it: on meta there is none."""
    modules = [m for m in model.modules() if isinstance(getattr(m, "rope_type", None), str)]
    kinds = [m.rope_type for m in modules]
    for module in modules:
        module.rope_type = "default"
    try:
        yield
    finally:
        for module, kind in zip(modules, kinds, strict=True):
            module.rope_type = kind


@contextmanager
def _forwards(replacements: list[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    for module, forward in replacements:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in replacements:
            del module.forward


def _empty_layer(*, tuples: bool, on_call: Callable[[], None] = lambda: None) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        on_call()
        hidden = first_argument(args, kwargs)
        if hidden.ndim != 3:
            raise _TupleExpected
        return (hidden,) if tuples else hidden

    return forward


def _probe_outside(model: Any, stack: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    try:
        return (*_Watch(model, stack, tuples=False).run(), False)
    except _TupleExpected:
        return (*_Watch(model, stack, tuples=True).run(), True)


class _Watch:
    """One run with emptied layers, noting which modules are used before and after them."""

    def __init__(self, model: Any, stack: str, *, tuples: bool) -> None:
        self._model = model
        self._stack = stack
        self._tuples = tuples
        self._layers_seen = 0
        self._num_layers = len(model.get_submodule(stack))
        self._before: dict[str, None] = {}
        self._after: dict[str, None] = {}

    def run(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        layers = self._model.get_submodule(self._stack)
        empty = _empty_layer(tuples=self._tuples, on_call=self._count)
        handles = [handle for name in self._outside() for handle in self._hook(name)]
        try:
            with _forwards([(layer, empty) for layer in layers]):
                logits = _run_on_meta(self._model).logits
        finally:
            for handle in handles:
                handle.remove()
        if tuple(logits.shape[:2]) != (1, _PROBE_TOKENS):
            raise _TupleExpected
        return tuple(self._before), tuple(self._after)

    def _outside(self) -> list[str]:
        inside = f"{self._stack}."
        names = [name for name, _ in self._model.named_modules() if not name.startswith(inside)]
        return [name for name in names if own_weights(self._model, name)]

    def _count(self) -> None:
        self._layers_seen += 1

    def _hook(self, name: str) -> tuple[Any, Any]:
        module = self._model.get_submodule(name)

        def on_entry(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._enter(name, first_argument(args, kwargs))

        def on_exit(*_: Any) -> None:
            if self._layers_seen == self._num_layers:
                self._after[name] = None

        return (
            module.register_forward_pre_hook(on_entry, with_kwargs=True),
            module.register_forward_hook(on_exit),
        )

    def _enter(self, name: str, value: Any) -> None:
        if self._layers_seen == 0:
            self._before[name] = None
        elif self._layers_seen < self._num_layers:
            raise ModelError(
                f"The architecture {self._model.config.model_type!r} shares {name} among its "
                "layers, so it cannot be cut into stages."
            )
        elif isinstance(value, torch.Tensor) and value.ndim < 3:
            raise _TupleExpected


def _probe_layers(model: Any, stack: str, *, tuples: bool) -> tuple[KVShape | None, ...]:
    layers = model.get_submodule(stack)
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(layers)
    known: dict[Any, KVShape | None] = {}
    shapes = []
    for index, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        tensors = tuple((name, tuple(t.shape)) for name, t in layer.state_dict().items())
        signature = (type(layer), kind, tensors)
        if signature not in known:
            known[signature] = _probe_layer(model, layers, index, tuples=tuples)
        shapes.append(known[signature])
    return tuple(shapes)


def _probe_layer(model: Any, layers: Any, index: int, *, tuples: bool) -> KVShape | None:
    empty = _empty_layer(tuples=tuples)
    others = [(layer, empty) for i, layer in enumerate(layers) if i != index]
    try:
        with _forwards(others):
            _run_on_meta(model)
    except _CacheReached as reached:
        return reached.kv
    return None
