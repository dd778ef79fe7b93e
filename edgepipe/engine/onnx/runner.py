"""Calls of a session whose inputs and outputs are tensors where they lie.

A binding names the caches of a run of slots once; a call only binds what comes in and goes out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgepipe.engine.onnx.slots import Slots

_MAX_BINDINGS = 64

_ELEMENT_TYPES: dict[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: 16,  # onnx.TensorProto.BFLOAT16: numpy has none
    torch.int64: np.int64,
}


class Runner:
    """Runs a session over the slots; the caches it writes are the ones it reads."""

    def __init__(
        self, session: Any, slots: Slots, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._session = session
        self._slots = slots
        self._device = device
        self._bindings: OrderedDict[tuple[int, int], _Binding] = OrderedDict()
        self._capacity = np.array([slots.capacity], dtype=np.int32)
        outputs = {value.name: value.shape for value in session.get_outputs()}
        self.head = "logits" in outputs
        self._output = "logits" if self.head else "hidden_states"
        self._width = int(outputs[self._output][2])
        self._input = session.get_inputs()[0].name
        wide = self.head and dtype is torch.bfloat16
        self._output_dtype = torch.float32 if wide else dtype

    def run(
        self, first: int, num_rows: int, inputs: torch.Tensor, *, all_logits: bool
    ) -> torch.Tensor:
        """Compute rows of the slots from `first` on, whose positions the slots were told.

        Args:
            first: the first slot.
            num_rows: slots in all.
            inputs: token ids [rows · tokens] or the hidden state [rows · tokens, hidden], row
                after row.
            all_logits: with a head, logits of every token and not of the last.

        Returns:
            The hidden state [rows · tokens, hidden], or logits float32 [rows · (1 or tokens),
            vocab].
        """
        tokens = inputs.shape[0] // num_rows
        binding = self._binding(first, num_rows)
        wanted = 1 if self.head and not all_logits else tokens
        if self.head:
            binding.want(tokens, wanted)
        output = torch.empty(
            (num_rows * wanted, self._width), dtype=self._output_dtype, device=self._device
        )
        binding.bind_input(self._input, inputs.contiguous(), (num_rows, tokens, *inputs.shape[1:]))
        binding.bind_output(self._output, output, (num_rows, wanted, self._width))
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding.native)
        return output

    def _binding(self, first: int, num_rows: int) -> _Binding:
        key = (first, num_rows)
        found = self._bindings.get(key)
        if found is None:
            found = self._bindings[key] = self._bind(first, num_rows)
            if len(self._bindings) > _MAX_BINDINGS:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return found

    def _bind(self, first: int, num_rows: int) -> _Binding:
        binding = _Binding(self._session)
        rows = slice(first, first + num_rows)
        binding.bind_array("last_positions", self._slots.last_positions[rows])
        binding.bind_array("capacity", self._capacity)
        for layer, pair in enumerate(zip(self._slots.keys, self._slots.values, strict=True)):
            for side, tensor in zip(("key", "value"), pair, strict=True):
                own = tensor[rows]
                binding.bind_input(f"past_key_values.{layer}.{side}", own, own.shape)
                binding.bind_output(f"present.{layer}.{side}", own, own.shape)
        return binding


class _Binding:
    """One io binding, and the arrays that it points to."""

    def __init__(self, session: Any) -> None:
        self.native = session.io_binding()
        self._names = {value.name for value in session.get_inputs()}
        self._arrays: dict[str, Any] = {}
        self._wanted = (0, 0)

    def want(self, tokens: int, wanted: int) -> None:
        """Ask for logits of the last `wanted` of `tokens` tokens."""
        if self._wanted != (tokens, wanted):
            self.bind_array("logit_tokens", np.arange(tokens - wanted, tokens, dtype=np.int64))
            self._wanted = (tokens, wanted)

    def bind_array(self, name: str, array: Any) -> None:
        """Bind a small input that lies in host memory, unless the graph has no use for it."""
        if name in self._names:
            self._arrays[name] = array
            self.native.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def bind_input(self, name: str, tensor: torch.Tensor, shape: Sequence[int]) -> None:
        """Bind an input of that shape to a tensor's memory, which is kept until the next one."""
        self._arrays[name] = tensor
        self.native.bind_input(name, *_place(tensor, shape))

    def bind_output(self, name: str, tensor: torch.Tensor, shape: Sequence[int]) -> None:
        """Bind an output of that shape to a tensor's memory, which the caller keeps."""
        self.native.bind_output(name, *_place(tensor, shape))


def _place(tensor: torch.Tensor, shape: Sequence[int]) -> tuple[str, int, Any, Sequence[int], int]:
    device, pointer = tensor.device, tensor.data_ptr()
    return device.type, device.index or 0, _ELEMENT_TYPES[tensor.dtype], tuple(shape), pointer
