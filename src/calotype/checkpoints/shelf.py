"""From the name a person gives to the model that is meant, whatever its format."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import calotype
from calotype.checkpoints import collection, diffusers_folder, hub, native_file, single_file, sizes
from calotype.checkpoints.found import Found, Piece
from calotype.checkpoints.names import Source
from calotype.checkpoints.tensor_info import TensorInfo
from calotype.checkpoints.weights import open_component
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.networks.config import AutoencoderConfig

if TYPE_CHECKING:
    import torch

    from calotype.models.latent_diffusion import LatentDiffusion
    from calotype.models.offload import Offload
    from calotype.networks.narrow import Widen


def shipped() -> dict[str, Path]:
    """The models in the package, by name."""
    folder = Path(calotype.__file__).parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(model: str, *, fetch: bool = False) -> Path:
    """The file of a shipped name, the file or folder of a path, of a name in the folder CALOTYPE_MODELS, or
    of an id of the Hugging Face hub (`owner/name`) in its local cache.

    fetch  whether an id may be fetched, which is right only where the person wrote it just now

    Raises InputError with the nearest name when there is no such model, FetchError for an id that is not in
    the cache and cannot or must not be fetched.
    """
    known = shipped()
    if model in known:
        return known[model]
    path = Path(model).expanduser()
    if path.exists():
        return path
    folder = collection.models_folder()
    own = {} if folder is None else collection.entries(folder)
    if folder is not None and any(model in collection.names(folder, path) for path in own.values()):
        return collection.find(model, folder)
    if hub.is_id(model):
        return hub.find(model, fetch=fetch)
    if path.suffix in collection.SUFFIXES or len(path.parts) > 1:
        raise InputError(
            f"There is no file {model}; name a shipped model, a .safetensors file or a diffusers folder."
        )
    every = {**known, **own}
    near = difflib.get_close_matches(model, [*every, *(Path(name).name for name in own)], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are: {', '.join(known) or 'none'}."
    raise InputError(f"There is no model {model!r}; {hint}")


@dataclasses.dataclass(frozen=True)
class Native:
    """A file of Calotype's own, with the face of `Found`.

    vae  the autoencoder that takes the place of its own; `config` has its sizes
    """

    path: Path
    config: ModelConfig
    vae: Piece | None = None

    @property
    def stored(self) -> Mapping[str, Mapping[str, TensorInfo | Source]]:
        """As `Found.stored`."""
        own = native_file.by_part(open_weights(self.path).shapes)
        return own if self.vae is None else {**own, "autoencoder": self.vae.sources}

    def load(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = "float32",
        offload: Offload | None = None,
        *,
        widen: Widen | None = "now",
    ) -> LatentDiffusion:
        """As `native.load`."""
        import torch

        from calotype.checkpoints import native
        from calotype.checkpoints.loading import filling, in_torch, placed, way
        from calotype.models.latent_diffusion import unfilled
        from calotype.networks.autoencoder import Autoencoder

        dtype, device = in_torch(dtype), torch.device(device)
        widen = widen or way(self.config, self.stored, device, dtype, offload)
        model = native.load(self.path, device, dtype, offload, widen=widen)
        if self.vae is None or self.config.autoencoder is None:
            return model
        with unfilled():
            autoencoder = Autoencoder(self.config.autoencoder)
        fill = filling(self.vae.file.path, autoencoder, [self.vae], device, dtype, widen)
        changed = hashlib.sha256(f"{model.weights_hash} {self.vae.fingerprint()}".encode()).hexdigest()
        model = model.replace(
            config=self.config, autoencoder=autoencoder.eval(), weights_hash=f"sampled-{changed}"
        )
        return placed(model, {"autoencoder": fill}, offload)


def recognise(path: Path, prediction: str | None = None, vae: str | Path | None = None) -> Found | Native:
    """What the file or folder is, without reading a tensor.

    prediction  what its U-Net predicts (eps, v, x0), if the person knows better than the file
    vae         a file or folder whose autoencoder takes the place of the model's own, if it has one

    Raises CheckpointError where it is no model that Calotype can use.
    """
    other = None if vae is None else _autoencoder(Path(vae).expanduser())
    if path.is_dir():
        return _with_autoencoder(diffusers_folder.recognise(path, prediction), other)
    file = open_weights(path)
    if file.metadata.get("format") != "calotype":
        return _with_autoencoder(single_file.recognise(file, prediction, other), other)
    if prediction is not None:
        raise InputError(f"{path} is Calotype's own and says what it predicts; leave the prediction out.")
    found = Native(path, native_file.latent_config(path))
    if other is None:
        return found
    config = dataclasses.replace(found.config, autoencoder=_fitting(found.config, other))
    return dataclasses.replace(found, config=config, vae=other)


def load(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = "float32",
    *,
    prediction: str | None = None,
    vae: str | Path | None = None,
    offload: Offload | None = None,
    widen: Widen | None = "now",
) -> LatentDiffusion:
    """The whole model, ready for use; `dtype` torch's own or its name, None for the precisions as stored.

    vae             as in `recognise`
    offload, widen  as in `Found.load`

    Raises CheckpointError as `recognise` does, and where tensors are missing, unknown or misshapen.
    """
    return recognise(path, prediction, vae).load(device, dtype, offload, widen=widen)


def _autoencoder(path: Path) -> Piece:
    if not path.exists():
        raise InputError(f"There is no file {path}; name one with an autoencoder.")
    file = open_component(path, diffusers_folder.WEIGHTS) if path.is_dir() else open_weights(path)
    return single_file.autoencoder(file)


def _with_autoencoder(found: Found, other: Piece | None) -> Found:
    """The model with the autoencoder of another file; its latents keep the model's scale."""
    if other is None:
        return found
    pieces = (*(piece for piece in found.pieces if piece.part != "autoencoder"), other)
    config = dataclasses.replace(found.config, autoencoder=_fitting(found.config, other))
    return dataclasses.replace(found, config=config, pieces=pieces)


def _fitting(config: ModelConfig, other: Piece) -> AutoencoderConfig:
    """The sizes of the other autoencoder; CheckpointError where its latents are not the model's."""
    own, path = config.autoencoder, other.file.path
    if own is None:
        raise CheckpointError(f"The model {config.name} has no autoencoder that {path} could replace.")
    found = other.measured(lambda sources: sizes.autoencoder(sources, own.scale, own.norm_groups))
    made = found.latent_channels, found.factor
    needed = config.unet.out_channels, own.factor
    if made != needed:
        raise CheckpointError(
            f"{path} makes {_latents(*made)}, but the model needs {_latents(*needed)}; use another."
        )
    return dataclasses.replace(found, shift=own.shift)


def _latents(channels: int, factor: int) -> str:
    return f"latents of {channels} channels, {factor} times smaller"
