"""Models of the Hugging Face hub, by the id a person wrote: `owner/name`, or `owner/name:fp16`.

The local cache comes first; the network is asked only where the caller allows it, and only for the files
that are read: settings, vocabularies and safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from calotype.checkpoints import detect, diffusers_folder
from calotype.checkpoints.collection import SUFFIXES
from calotype.checkpoints.weights import read_json
from calotype.errors import CheckpointError, FetchError

ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<variant>\w+))?")

WEIGHTS = {
    "unet": diffusers_folder.WEIGHTS,
    "vae": diffusers_folder.WEIGHTS,
    "text_encoder": diffusers_folder.TEXT_WEIGHTS,
    "text_encoder_2": diffusers_folder.TEXT_WEIGHTS,
}
"""The parts of a model that hold weights, and what these files are called."""

SETTINGS = {
    **dict.fromkeys(WEIGHTS, ("config.json",)),
    "scheduler": ("scheduler_config.json",),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_2"),
        ("vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"),
    ),
}
"""What is read besides, by part."""


def is_id(name: str) -> bool:
    """Whether a name can be an id of the hub's and no mistyped path."""
    if not ID.fullmatch(name) or name.endswith(SUFFIXES):
        return False
    return not Path(name).parent.exists()


def find(name: str, *, fetch: bool) -> Path:
    """The folder of a model in the local cache, fetched first where it is not there and `fetch` allows it.

    HF_HUB_OFFLINE forbids it too.
    Raises FetchError: not in the cache and not allowed, not reachable, no such model; CheckpointError: a
    model of no use here.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    met = ID.fullmatch(name)
    assert met is not None, "is_id() comes first"
    try:
        cached = Path(huggingface_hub.snapshot_download(met["id"], local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    else:
        if _whole(cached):
            return cached
    if not fetch or constants.HF_HUB_OFFLINE:
        raise FetchError(
            f"There is no file or folder {name}, and the local cache of the Hugging Face hub does not hold "
            "all of such a model; fetch it once online, without --offline."
        )
    return _fetched(met["id"], met["variant"])


def _whole(folder: Path) -> bool:
    """Whether all that is read of a model lies in the folder; a refusal of its kind is raised."""
    index = folder / diffusers_folder.INDEX
    if not index.is_file():
        return False
    detect.refuse_pipeline(folder, str(read_json(index).get("_class_name", "")))
    try:
        diffusers_folder.recognise(folder)
    except CheckpointError:
        return False
    return True


def _fetched(repository: str, variant: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        index = Path(huggingface_hub.hf_hub_download(repository, diffusers_folder.INDEX))
        # before gigabytes are fetched for nothing
        detect.refuse_pipeline(Path(repository), str(read_json(index).get("_class_name", "")))
        names = huggingface_hub.HfApi().list_repo_files(repository)
        return Path(
            huggingface_hub.snapshot_download(repository, allow_patterns=needed(repository, names, variant))
        )
    except (RepositoryNotFoundError, HFValidationError):
        raise FetchError(
            f"The Hugging Face hub has no model {repository}, or shows it only to those who have logged in "
            "(`hf auth login`); check the spelling."
        ) from None
    except LocalEntryNotFoundError:
        raise FetchError(
            f"The model {repository} is not in the local cache and the Hugging Face hub cannot be reached; "
            "try again online."
        ) from None
    except EntryNotFoundError:
        raise FetchError(
            f"{repository} on the Hugging Face hub has no {diffusers_folder.INDEX}, is no diffusers folder; "
            "fetch the file you want from there and name that."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FetchError(
            f"The model {repository} cannot be fetched from the Hugging Face hub ({reason}); try again later."
        ) from None


def needed(repository: str, names: Iterable[str], variant: str | None) -> list[str]:
    """Of a folder's files those that are read, the weights in one variant.

    variant  such as fp16; None for the plain files, or fp16 where there are no others

    Raises CheckpointError where a part has no such weights as safetensors.
    """
    there = sorted(names)
    chosen = [diffusers_folder.INDEX]
    for part, files in SETTINGS.items():
        chosen += [name for file in files if (name := f"{part}/{file}") in there]
    for part, stem in WEIGHTS.items():
        if f"{part}/config.json" not in there:
            continue
        weights: list[str] = []
        for kind in (None, "fp16") if variant is None else (variant,):
            weights = weights or [name for name in there if _weights(part, stem, kind).fullmatch(name)]
        if not weights:
            asked = "" if variant is None else f" in the variant {variant}"
            raise CheckpointError(
                f"The hub's {repository} has no safetensors for {part}{asked}; use another."
            )
        chosen += weights
    return chosen


def _weights(part: str, stem: str, kind: str | None) -> re.Pattern[str]:
    """The names of a part's weights, whole or in shards with their index."""
    mark, shard = "" if kind is None else rf"\.{kind}", r"(-\d+-of-\d+)?"
    file = (
        rf"{stem}{mark}{shard}\.safetensors" if kind is None else rf"{stem}{shard}{mark}{shard}\.safetensors"
    )
    index = rf"{stem}{mark}\.safetensors\.index\.json|{stem}\.safetensors\.index{mark}\.json"
    return re.compile(rf"{part}/(?:{file}|{index})")
