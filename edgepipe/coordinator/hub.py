"""Hugging Face's hub: a model's small files first, its weights when they are asked for.

The hub's own cache, offline mode (HF_HUB_OFFLINE) and token are honoured. Code and pickles are
never fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgepipe.coordinator.safetensors_source import INDEX_NAME, SINGLE_NAME, read_weight_map
from edgepipe.errors import ModelError

_SMALL_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_NOT_AT_THE_TOP = ("*/*",)


def fetch_config(repo: str) -> Path:
    """The snapshot folder of a model id, with its config and tokenizer files in it.

    Raises:
        ModelError: no such model, no access to it, or not cached while the hub is out of reach.
    """
    return _snapshot(repo, _SMALL_FILES, revision=None)


def fetch_weights(repo: str, folder: Path) -> None:
    """Fetch the safetensors of the snapshot in `folder`, as far as they are not there.

    Raises:
        ModelError: there are none, or they cannot be had now.
    """
    wanted = _shards(folder)
    if not _all_there(folder, wanted):
        _snapshot(repo, wanted, revision=folder.name)
    if not _all_there(folder, wanted):
        raise ModelError(
            f"{repo} has no safetensors on the hub, or they are not cached and the hub cannot be "
            "reached: choose another model, or go online once (without HF_HUB_OFFLINE)."
        )


def _all_there(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _shards(folder: Path) -> Sequence[str]:
    index = folder / INDEX_NAME
    return sorted(set(read_weight_map(index).values())) if index.is_file() else [SINGLE_NAME]


def _snapshot(repo: str, patterns: Sequence[str], *, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (slow, and not always needed)
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(_NOT_AT_THE_TOP),
            )
        )
    except GatedRepoError:
        raise ModelError(
            f"{repo} is gated: ask for access at https://huggingface.co/{repo} "
            "and log in with `hf auth login`."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            f"There is no model {repo}: give a folder, a .gguf file, a Hugging Face id "
            "(a private one needs `hf auth login`), or smollm2-135m."
        ) from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{repo} is no folder here, is not in the Hugging Face cache (or only a part of it "
            "is), and the hub cannot be reached: go online once (without HF_HUB_OFFLINE), or give "
            "a local folder."
        ) from None
    except OSError as error:
        raise ModelError(
            f"{repo} could not be downloaded ({str(error).partition(chr(10))[0]}): try again."
        ) from error
