"""What the owner decides for all pictures: one value, given to a `Studio` or a server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import PIL.Image

from calotype.errors import InputError
from calotype.safety import content
from calotype.safety.blocklist import BlockList

if TYPE_CHECKING:
    from calotype.safety.provenance import Signer

ContentCheck = Literal["auto", "off", "report", "withhold"]
Metadata = Literal["full", "shareable"]

VARIABLE = "CALOTYPE_CONTENT_CHECK"
"""Of the environment: the content check where nobody says another."""


@dataclass(frozen=True)
class Safety:
    """
    content_check  withhold: a picture that reaches the threshold is replaced by a grey one; report: it is
                   shown with its score; off; auto: withhold for models that the user loads, off for the
                   shipped ones.  None: what CALOTYPE_CONTENT_CHECK says, else auto
    threshold      above 0 to 1, of the content check's score
    block_list     words that are refused in prompts; None for none
    metadata       full: the picture says all that makes it again; shareable: neither words nor file names
    watermark      whether pictures get an invisible mark that says a model made them
    signer         signs their files with C2PA credentials; None for none

    Raises InputError for a value that is none of these.
    """

    content_check: ContentCheck | None = None
    threshold: float = content.THRESHOLD
    block_list: BlockList | None = None
    metadata: Metadata = "full"
    watermark: bool = False
    signer: Signer | None = None

    def __post_init__(self) -> None:
        told = self.content_check or os.environ.get(VARIABLE) or "auto"
        for name, value, known in (
            ("content check", told, get_args(ContentCheck)),
            ("metadata", self.metadata, get_args(Metadata)),
        ):
            if value not in known:
                raise InputError(f"The {name} is {value!r}; choose one of {', '.join(known)}.")
        if not 0 < self.threshold <= 1:
            raise InputError(f"The content threshold is {self.threshold:g}; give a number above 0, up to 1.")
        object.__setattr__(self, "content_check", told)
        if told in ("report", "withhold"):
            content.require()

    def refuse_words(self, texts: Iterable[str]) -> None:
        """BlockedPromptError where a text holds a word of the block list."""
        if self.block_list is not None:
            self.block_list.refuse(texts)

    def checks(self, shipped: bool) -> bool:
        """Whether pictures are checked; `shipped` are those of models that come with Calotype."""
        return self.content_check in ("report", "withhold") or (self.content_check == "auto" and not shipped)

    def judge(self, image: PIL.Image.Image) -> content.Verdict:
        """Of a picture that is to be checked; unchecked where the check was not asked for by name and is
        not installed."""
        if not content.installed() and self.content_check == "auto":
            return content.Verdict("unchecked")
        return content.judge(image, self.threshold, self.content_check != "report")
