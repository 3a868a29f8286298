"""What a LoRA or a textual inversion is, from its names and shapes: described, not loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from calotype.checkpoints.weights import WeightsFile

CHANGE = re.compile(
    r"(?P<layer>.+?)(?:\.|_(?=lora\.))"
    r"(?P<leaf>lora_(?:down|up|mid|A|B|magnitude_vector)|lora(?:_linear_layer)?\.(?:down|up)"
    r"|(?:hada|lokr)_[wt]\d(?:_[ab])?|dora_scale|alpha|diff|diff_b)"
    r"(?:\.\w+)*"
)
"""A change to `layer`, as kohya (x.lora_down.weight), PEFT (x.lora_A.weight), early diffusers
(x_lora.down.weight) and LyCORIS (x.hada_w1_a, x.lokr_w1) name them.
"""

TELL_TALE = re.compile(r"[._](lora[._]|lora_linear_layer\.|hada_w|lokr_w|dora_scale)")

METHODS = {"lora": "LoRA", "hada": "LoHa", "lokr": "LoKr"}

RANKED = {"lora_down", "lora_A", "lora.down", "lora_linear_layer.down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"}
"""Leaves whose first side is the rank."""

LAYERS = (
    ("attention", r"to_q|to_k|to_v|to_out|[qkv]_proj|out_proj|attn[._](?:qkv|proj|in_proj|out_proj)"),
    ("feed-forward", r"ff[._]net|mlp"),
    ("projections", r"proj_in|proj_out"),
    ("convolutions", r"conv|downsamplers|upsamplers|in_layers|out_layers|skip_connection|_op$"),
    ("embeddings", r"emb"),
)
"""Kinds of layers by parts of their names, first match first."""

WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Families by the width of the text that the U-Net sees."""

OTHERS = (("Flux", "double_blocks single_transformer_blocks"), ("Stable Diffusion 3", "joint_blocks"))


WORD = re.compile(r"emb_params|clip_[lg]|<.*>|string_to_param\..*")
"""Names of the vectors that stand for a word."""


@dataclass(frozen=True)
class LoraInfo:
    """method   LoRA, LoHa, LoKr …, with DoRA where it has magnitudes
    family   the model it is for, as people call it; None where nothing tells it
    ranks    rank to how many layers have it; 0 for changes that are stored whole
    alphas   whether it scales itself by alpha / rank
    targets  network to kind of layer to how many of them
    """

    method: str
    family: str | None
    ranks: Mapping[int, int]
    alphas: bool
    targets: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class EmbeddingInfo:
    """tokens  how many vectors the word stands for
    family  the model it is for
    """

    tokens: int
    family: str | None


def lora(file: WeightsFile) -> LoraInfo | None:
    """The LoRA in a file, None where there is none."""
    if not any(TELL_TALE.search(name) for name in file.shapes):
        return None
    kinds: set[str] = set()
    ranks: dict[str, int] = {}
    widths: set[int] = set()
    alphas = dora = False
    for name, info in file.shapes.items():
        met = CHANGE.fullmatch(name)
        if met is None:
            continue
        layer, leaf = met["layer"], met["leaf"]
        ranks.setdefault(layer, 0)
        alphas |= leaf == "alpha"
        dora |= leaf in ("dora_scale", "lora_magnitude_vector")
        if leaf[:4] in METHODS:
            kinds.add(METHODS[leaf[:4]])
        if leaf in RANKED and info.shape:
            ranks[layer] = info.shape[0]
            if leaf.startswith("lora") and re.search(r"attn2[._](processor\.)?to_[kv]$", layer):
                widths.update(info.shape[1:2])
    method = " and ".join(sorted(kinds)) + (" with DoRA's magnitudes" if dora else "")
    targets: dict[str, Counter[str]] = {}
    for layer in ranks:
        targets.setdefault(_network(layer), Counter())[_kind(layer)] += 1
    return LoraInfo(
        method,
        _family(ranks, widths, file.metadata),
        dict(sorted(Counter(ranks.values()).items())),
        alphas,
        {network: dict(kinds) for network, kinds in targets.items()},
    )


def embedding(file: WeightsFile) -> EmbeddingInfo | None:
    """The textual inversion in a file, None where there is none."""
    shapes = file.shapes
    chosen = [name for name in shapes if WORD.fullmatch(name)]
    if not chosen or any(len(shapes[name].shape) not in (1, 2) for name in chosen):
        return None
    both = {"clip_l", "clip_g"} <= shapes.keys()
    first = shapes[chosen[0]].shape
    family = "Stable Diffusion XL" if both else WIDTHS.get(first[-1])
    return EmbeddingInfo(1 if len(first) == 1 else first[0], family)


def _network(layer: str) -> str:
    if re.match(r"(lora_te2|text_encoder_2|te2)", layer):
        return "second text encoder"
    if re.match(r"(lora_te|text_encoder|te1?[._]|text_model)", layer):
        return "text encoder"
    return "U-Net"


def _kind(layer: str) -> str:
    return next((kind for kind, parts in LAYERS if re.search(parts, layer)), "others")


def _family(layers: Iterable[str], widths: set[int], metadata: Mapping[str, str]) -> str | None:
    names = list(layers)
    for title, parts in OTHERS:
        if any(part in name for part in parts.split() for name in names):
            return title
    known = {WIDTHS[width] for width in widths if width in WIDTHS}
    if len(known) == 1:
        return known.pop()
    if any(_network(name) == "second text encoder" for name in names):
        return WIDTHS[2048]
    told = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or ""
    for part, width in (("xl", 2048), ("v2", 1024), ("v1", 768)):
        if part in told.lower():
            return WIDTHS[width]
    return None
