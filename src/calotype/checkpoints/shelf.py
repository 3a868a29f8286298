"""From the name a person gives to the model that is meant, whatever its format."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from pathlib import Path

import torch

import calotype
from calotype.checkpoints import diffusers_folder, native, single_file, sizes
from calotype.checkpoints.found import Found, fill
from calotype.checkpoints.weights import open_component
from calotype.checkpoints.weights_file import open_weights
from calotype.errors import CheckpointError, InputError
from calotype.models.config import ModelConfig
from calotype.models.latent_diffusion import LatentDiffusion, unfilled
from calotype.networks.autoencoder import Autoencoder, AutoencoderConfig


def shipped() -> dict[str, Path]:
    """The models in the package, by name."""
    folder = Path(calotype.__file__).parent / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(model: str) -> Path:
    """The file of a shipped name, or the file or folder of a path.

    Raises InputError with the nearest name when there is no such model.
    """
    known = shipped()
    if model in known:
        return known[model]
    path = Path(model).expanduser()
    if path.exists():
        return path
    if path.suffix == ".safetensors" or len(path.parts) > 1:
        raise InputError(
            f"There is no file {model}; name a shipped model, a .safetensors file or a diffusers folder."
        )
    near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are: {', '.join(known) or 'none'}."
    raise InputError(f"There is no model {model!r}; {hint}")


@dataclasses.dataclass(frozen=True)
class Native:
    """A file of Calotype's own, with the face of `Found`."""

    path: Path
    config: ModelConfig

    def load(
        self, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
    ) -> LatentDiffusion:
        """As `native.load`."""
        return native.load(self.path, device, dtype)


def recognise(path: Path, prediction: str | None = None) -> Found | Native:
    """What the file or folder is, without reading a tensor.

    prediction  what its U-Net predicts (eps, v, x0), if the person knows better than the file

    Raises CheckpointError where it is no model that Calotype can use.
    """
    if path.is_dir():
        return diffusers_folder.recognise(path, prediction)
    file = open_weights(path)
    if file.metadata.get("format") != "calotype":
        return single_file.recognise(file, prediction)
    if prediction is not None:
        raise InputError(f"{path} is Calotype's own and says what it predicts; leave the prediction out.")
    return Native(path, native.latent_config(path))


def load(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    prediction: str | None = None,
    vae: str | Path | None = None,
) -> LatentDiffusion:
    """The whole model, ready for use; `dtype` None for the precisions as stored.

    vae  a file or folder whose autoencoder takes the place of the model's own

    Raises CheckpointError as `recognise` does, and where tensors are missing, unknown or misshapen.
    """
    model = recognise(path, prediction).load(device, dtype)
    return model if vae is None else with_autoencoder(model, Path(vae).expanduser(), device, dtype)


def with_autoencoder(
    model: LatentDiffusion,
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> LatentDiffusion:
    """The model with the autoencoder of another file or folder; its latents keep the model's scale."""
    own = model.config.autoencoder
    if own is None:
        raise CheckpointError(f"The model {model.config.name} has no autoencoder that {path} could replace.")
    if not path.exists():
        raise InputError(f"There is no file {path}; name one with an autoencoder.")
    file = open_component(path, diffusers_folder.WEIGHTS) if path.is_dir() else open_weights(path)
    piece = single_file.autoencoder(file)
    config = piece.measured(lambda found: sizes.autoencoder(found, own.scale, own.norm_groups))
    config = dataclasses.replace(config, shift=own.shift)
    if config.latent_channels != own.latent_channels or config.factor != own.factor:
        raise CheckpointError(f"{path} makes {_kind(config)}, but the model needs {_kind(own)}; use another.")
    with unfilled():
        autoencoder = Autoencoder(config)
    fill(path, autoencoder, [piece], device, dtype)
    changed = hashlib.sha256(f"{model.weights_hash} {piece.fingerprint()}".encode()).hexdigest()
    return model.replace(
        config=dataclasses.replace(model.config, autoencoder=config),
        autoencoder=autoencoder.eval(),
        weights_hash=f"sampled-{changed}",
    )


def _kind(config: AutoencoderConfig) -> str:
    return f"latents of {config.latent_channels} channels, {config.factor} times smaller"
