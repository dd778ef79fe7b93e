"""What LoRA's tensors are called, as PEFT has them.

X.weight [out, in]      X.lora_A.weight [rank, in]      X.lora_B.weight [out, rank]
"""

from __future__ import annotations

LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"
SCALE_OPTION = "adapter_scale"
"""What a stage's options call the number that B A is multiplied by: alpha / rank."""


def module_of(name: str) -> str | None:
    """The module that a LoRA tensor stands beside; None of any other tensor."""
    for half in (LORA_A, LORA_B):
        if name.endswith(half):
            return name.removesuffix(half)
    return None
