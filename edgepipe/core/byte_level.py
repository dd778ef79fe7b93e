"""The alphabet in which byte-level tokenizers write bytes (GPT-2, Radford et al. 2019).

Bytes that print stand for themselves, the others for the characters from U+0100 on, in order.
"""

from __future__ import annotations

_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTED)
_BYTE_OF = {
    **{chr(byte): byte for byte in _PRINTED},
    **{chr(0x100 + index): byte for index, byte in enumerate(_OTHERS)},
}


def byte_level_bytes(token: str) -> bytes | None:
    """The bytes that a token is written for; None if it is not of this alphabet."""
    if not all(character in _BYTE_OF for character in token):
        return None
    return bytes(_BYTE_OF[character] for character in token)
