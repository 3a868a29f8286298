"""A model under the LoRAs and textual inversions of a request; the model itself is never touched.

What a request changes is a twin that shares every other tensor.  So requests on one model do not see each
other, however their steps alternate, and nothing has to be put back.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from calotype.checkpoints import embedding, lora
from calotype.checkpoints.lora_names import Part
from calotype.conditioning.text import TextEncoder
from calotype.errors import CheckpointError, InputError
from calotype.models.compiling import compile_as
from calotype.models.latent_diffusion import LatentDiffusion
from calotype.networks.lora import Adapter, sharing
from calotype.tasks.additions import LoraUse
from calotype.tasks.request import ResolvedRequest

N = TypeVar("N", bound=nn.Module)


class Adapted:
    """model: the one that stays as it is; notices: what a person should know of the files."""

    def __init__(self, model: LatentDiffusion, request: ResolvedRequest, *, bare: bool = False) -> None:
        """Reads every file; InputError or CheckpointError where one cannot be used with this model.

        bare  nothing changes the model: the request's files are meant for another
        """
        self.model = model
        self._request, self._bare = request, bare
        texts = () if bare else request.texts[:-1]
        files = dict.fromkeys(use.file for text in texts for use in request.loras_of(text))
        self._loras = {file: lora.read(Path(file).expanduser(), model) for file in files}
        words = () if bare else request.embeddings
        self._words = {use.word or "": self._vectors(use.file) for use in words}
        told = (found.warning(model.config.name) for found in self._loras.values())
        self.notices = tuple(sentence for sentence in told if sentence is not None)
        self._reader: tuple[tuple[LoraUse, ...] | None, TextEncoder] = (None, model.text_encoder)
        self._drawer: tuple[tuple[LoraUse, ...] | None, LatentDiffusion] = (None, model)

    def loras(self, prompt: str) -> tuple[LoraUse, ...]:
        """Those that change the pictures of a prompt."""
        if self._bare:
            return ()
        return tuple(use for use in self._request.loras_of(prompt) if use.weight != 0)

    def reading(self, prompt: str) -> LatentDiffusion:
        """The model whose text encoder reads this prompt and what to steer away from."""
        uses = self.loras(prompt)
        if uses != self._reader[0]:
            if uses or self._words:
                self.model.bring("text_encoder")
            encoder = self._changed(self.model.text_encoder, "text_encoder", uses)
            self._reader = (uses, encoder.taught(self._words))
        return self.model.replace(text_encoder=self._reader[1])

    def drawing(self, prompt: str) -> LatentDiffusion:
        """The model that draws this prompt; only that of the last one asked for is kept."""
        uses = self.loras(prompt)
        if uses != self._drawer[0]:
            if uses:
                self.rest()
                self.model.bring("denoiser")
            self._drawer = (None, self.model)  # before the next takes its memory
            denoiser = self._changed(self.model.denoiser, "denoiser", uses)
            self._drawer = (uses, self.model.replace(denoiser=denoiser))
        return self._drawer[1]

    def rest(self) -> None:
        """Lets go of the twins, where their networks are to make room for others."""
        if self.model.offload is not None:
            self._reader, self._drawer = (None, self.model.text_encoder), (None, self.model)

    def _changed(self, part: N, name: Part, uses: tuple[LoraUse, ...]) -> N:
        chosen = [(self._loras[use.file].changes[name], use.weight) for use in uses]
        if not any(changes for changes, _ in chosen):
            return part
        twin = sharing(part)
        Adapter(twin).apply(chosen, live=self._request.lora_live)
        compile_as(part, twin)
        return twin

    def _vectors(self, file: str) -> tuple[Tensor, ...]:
        encoder = self.model.text_encoder
        if encoder.tokenizer is None:
            raise InputError(
                f"The model {self.model.config.name} takes no text; leave the textual inversion {file} out."
            )
        found = embedding.read(Path(file).expanduser(), self.model)
        room = encoder.tokenizer.context_length - 2
        if len(found.vectors[0]) > room:
            raise CheckpointError(
                f"{file} has {len(found.vectors[0])} vectors, but the model {self.model.config.name} reads "
                f"{room} tokens at once; use a shorter one."
            )
        return found.vectors
