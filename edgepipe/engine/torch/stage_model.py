"""A model's own forward, cut to a stage.

    layers  0 … first-1   first … end-1     end … n-1
            pass through   run              pass through
                  ▲ hidden state replaced      ▲ hidden state taken, where there is no head

Nothing is renumbered, so layer kinds, multipliers and soft caps stay the model's own. What a
foreign part computes is never looked at.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from edgepipe.engine.torch.anatomy import Anatomy, Cut, cache_argument, first_argument
from edgepipe.engine.torch.attention import moving_rotaries, use_row_positions
from edgepipe.engine.torch.cache import SlotCache
from edgepipe.errors import ModelError


class StageModel:
    """Runs a cut of `model`, whose own weights are loaded and the rest emptied."""

    def __init__(self, model: Any, anatomy: Anatomy, cut: Cut) -> None:
        self._model = model
        self._embedding = cut.embedding
        self._head = cut.head
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None
        self._moving_rotaries = moving_rotaries(model)
        self.batches_rows = use_row_positions(model)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._takes_keep = "logits_to_keep" in accepted
        self._cache_argument = cache_argument(model)
        layers = model.get_submodule(anatomy.stack)
        if not cut.embedding:
            entry = layers[min(cut.first, anatomy.num_layers - 1)]
            entry.register_forward_pre_hook(self._replace_input, with_kwargs=True)
        if not cut.head:
            layers[max(cut.end - 1, 0)].register_forward_hook(self._take_output)
        elif (projection := model.get_output_embeddings()) is not None:
            projection.register_forward_pre_hook(self._keep_rows)

    @torch.inference_mode()
    def run(
        self,
        inputs: torch.Tensor,
        positions: torch.Tensor,
        cache: SlotCache,
        *,
        last_only: bool,
    ) -> torch.Tensor:
        """One forward over a batch that `cache` was made ready for.

        Args:
            inputs: token ids [rows, tokens], or the hidden state [rows, tokens, hidden].
            positions: int64 [rows, tokens].
            cache: the stage's keys and values.
            last_only: with a head, logits of each row's last token only.

        Returns:
            The hidden state [rows, tokens, hidden], or logits float32 [rows, 1 or tokens, vocab].
        """
        output = self._call(inputs, positions, cache, last_only=last_only)
        return output.float() if self._head else output

    def differentiable(
        self, inputs: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One forward over whole sequences, without a cache and with autograd; else as `run`.

        With `rows`, int64 [kept], a head gives logits [kept, vocab] of those of its rows · tokens
        alone, in the type that they were computed in.
        """
        self._rows = rows
        logits = self._call(inputs, positions, None, last_only=False)
        if rows is None or not self._head:
            return logits
        if self._rows is None:
            return logits[0]
        self._rows = None
        return logits.flatten(0, 1)[rows]

    def _call(
        self,
        inputs: torch.Tensor,
        positions: torch.Tensor,
        cache: SlotCache | None,
        *,
        last_only: bool,
    ) -> torch.Tensor:
        for rotary in self._moving_rotaries:
            _forget_lengths(rotary)
        arguments: dict[str, Any] = {"input_ids" if self._embedding else "inputs_embeds": inputs}
        if self._takes_positions:
            arguments["position_ids"] = positions
        if self._takes_keep:
            arguments["logits_to_keep"] = 1 if last_only else 0
        arguments[self._cache_argument] = cache
        self._input = inputs
        logits = self._model(use_cache=cache is not None, **arguments).logits
        output = (logits[:, -1:] if last_only else logits) if self._head else self._output
        self._input = self._output = None
        assert output is not None
        return output

    def _replace_input(
        self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._input, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): self._input}

    def _keep_rows(self, _: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Logits are large: compute no more of them than somebody looks at."""
        if self._rows is None or not args:
            return None
        kept, self._rows = args[0].flatten(0, 1)[self._rows][None], None
        return (kept, *args[1:])

    def _take_output(self, _module: Any, _args: Any, output: Any) -> None:
        self._output = output[0] if isinstance(output, tuple) else output


def empty_foreign_parts(model: Any, anatomy: Anatomy, cut: Cut) -> None:
    """Take the weights of all that is not the stage's own out of the model."""
    for index, layer in enumerate(model.get_submodule(anatomy.stack)):
        if index not in cut.layers:
            _empty(layer, _pass_tuple if anatomy.tuples else _pass)
    for name in {*anatomy.before, *anatomy.after}.difference(cut.outside(anatomy)):
        module = model.get_submodule(name)
        if not any(module.children()):
            _empty(module, _add_nothing if isinstance(module, torch.nn.Embedding) else _pass)


def _empty(module: Any, forward: Any) -> None:
    for content in (module._modules, module._parameters, module._buffers):  # noqa: SLF001
        content.clear()
    module.forward = forward
    module._is_hf_initialized = True  # noqa: SLF001


def _pass(*args: Any, **kwargs: Any) -> Any:
    """Hand on what comes in."""
    return first_argument(args, kwargs)


def _pass_tuple(*args: Any, **kwargs: Any) -> tuple[Any]:
    return (_pass(*args, **kwargs),)


def _add_nothing(*_: Any, **__: Any) -> torch.Tensor:
    """An embedding that leaves what it is added to as it is."""
    return torch.zeros(())


def rebuild_buffers(model: Any, device: torch.device) -> None:
    """Compute the buffers that no checkpoint holds (rotary frequencies, masks) on the device.

    Raises ModelError where the architecture does not say how.
    """
    for module in model.modules():
        module._is_hf_initialized = not _has_own_meta_buffers(module)  # noqa: SLF001
    buffers = [entry for entry in model.named_buffers() if entry[1].is_meta]
    for name, buffer in buffers:
        path, _, attribute = name.rpartition(".")
        fresh = torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
        if buffer.is_floating_point():
            fresh.fill_(torch.nan)
        setattr(model.get_submodule(path), attribute, fresh)
    model.initialize_weights()
    for name, _ in buffers:
        if model.get_buffer(name).isnan().any():
            raise ModelError(f"The buffer {name} of {type(model).__name__} cannot be rebuilt.")


def _has_own_meta_buffers(module: Any) -> bool:
    return any(buffer.is_meta for buffer in module.buffers(recurse=False))


def _forget_lengths(rotary: Any) -> None:
    """Undo what longer sequences left behind in a table that grows with the longest position."""
    kinds = rotary.rope_type
    for prefix in [f"{kind}_" for kind in kinds] if isinstance(kinds, dict) else [""]:
        original = getattr(rotary, f"{prefix}original_inv_freq", None)
        if original is not None:
            setattr(rotary, f"{prefix}inv_freq", original.clone())
            setattr(rotary, f"{prefix}max_seq_len_cached", rotary.original_max_seq_len)
