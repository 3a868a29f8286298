"""The names and shapes of every tensor of a network, from its config alone: what `state_dict()` of the module
holds, told without building it, which takes torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from calotype.networks.config import AutoencoderConfig, ClipTextConfig, UNetConfig

Shapes = dict[str, tuple[int, ...]]


def unet(config: UNetConfig) -> Shapes:
    """Those of `UNet(config)`."""
    table = _Table()
    widths, layers, embedded = config.block_channels, config.layers_per_block, config.embedding_width
    last, entering = len(widths) - 1, config.in_channels
    table.mlp("time_embedding", widths[0], embedded)
    if config.guidance_width is not None:
        table.linear("guidance_embedding", config.guidance_width, widths[0], bias=False)
    if config.vector_width is not None:
        table.mlp("vector_embedding", config.vector_width, embedded)
    if config.classes is not None:
        table.add("class_embedding.weight", config.classes, embedded)
    if config.outline_cells:
        table.linear("outline", config.context_width, entering * config.outline_side**2)
        entering *= 2
    table.conv("enter", entering, widths[0])
    kept = [widths[0]]  # channels of every map kept for the way up
    for i, width in enumerate(widths):
        _level(table, config, f"down.{i}", i, [widths[max(i - 1, 0)], *[width] * (layers - 1)])
        if i < last:
            table.conv(f"down.{i}.resample.conv", width, width)
        kept += [width] * (layers + (i < last))
    table.residual("middle.block1", widths[-1], widths[-1], embedded)
    if config.transformer_depth[-1]:
        _transformer(table, config, "middle.transformer", last, middle=True)
    table.residual("middle.block2", widths[-1], widths[-1], embedded)
    for place, i in enumerate(range(last, -1, -1)):
        inputs = [widths[min(i + 1, last)], *[widths[i]] * layers]
        _level(table, config, f"up.{place}", i, [channels + kept.pop() for channels in inputs])
        if i:
            table.conv(f"up.{place}.resample.conv", widths[i], widths[i])
    table.norm("norm", widths[0])
    table.conv("leave", widths[0], config.out_channels)
    return table.shapes


def autoencoder(config: AutoencoderConfig) -> Shapes:
    """Those of `Autoencoder(config)`."""
    table = _Table()
    latents = config.latent_channels
    _half(table, config, "encoder", config.in_channels, config.block_channels, 2 * latents)
    _half(table, config, "decoder", latents, config.block_channels[::-1], config.in_channels)
    table.conv("quant_conv", 2 * latents, 2 * latents, side=1)
    table.conv("post_quant_conv", latents, latents, side=1)
    return table.shapes


def clip(config: ClipTextConfig) -> Shapes:
    """Those of `ClipText(config)`."""
    table, width = _Table(), config.width
    table.add("token_embedding.weight", config.vocabulary, width)
    table.add("position_embedding.weight", config.context_length, width)
    for i in range(config.layers):
        place = f"layers.{i}"
        table.norm(f"{place}.norm1", width)
        table.attention(f"{place}.attention", width, width, bias=True)
        table.norm(f"{place}.norm2", width)
        table.linear(f"{place}.up", width, config.mlp_width)
        table.linear(f"{place}.down", config.mlp_width, width)
    table.norm("final_norm", width)
    if config.projection_width is not None:
        table.linear("projection", width, config.projection_width, bias=False)
    return table.shapes


@dataclass
class _Table:
    """Modules by their names; each adds the tensors that it has."""

    shapes: Shapes = field(default_factory=dict)

    def add(self, name: str, *shape: int) -> None:
        self.shapes[name] = shape

    def linear(self, name: str, source: int, width: int, *, bias: bool = True) -> None:
        self.add(f"{name}.weight", width, source)
        if bias:
            self.add(f"{name}.bias", width)

    def conv(self, name: str, channels: int, out_channels: int, *, side: int = 3) -> None:
        self.add(f"{name}.weight", out_channels, channels, side, side)
        self.add(f"{name}.bias", out_channels)

    def norm(self, name: str, channels: int) -> None:
        self.add(f"{name}.weight", channels)
        self.add(f"{name}.bias", channels)

    def mlp(self, name: str, features: int, width: int) -> None:
        self.linear(f"{name}.linear1", features, width)
        self.linear(f"{name}.linear2", width, width)

    def residual(self, name: str, channels: int, out_channels: int, embedded: int | None = None) -> None:
        self.norm(f"{name}.norm1", channels)
        self.conv(f"{name}.conv1", channels, out_channels)
        if embedded is not None:
            self.linear(f"{name}.embed", embedded, out_channels)
        self.norm(f"{name}.norm2", out_channels)
        self.conv(f"{name}.conv2", out_channels, out_channels)
        if channels != out_channels:
            self.conv(f"{name}.skip", channels, out_channels, side=1)

    def attention(self, name: str, width: int, source: int, *, bias: bool = False) -> None:
        self.linear(f"{name}.query", width, width, bias=bias)
        self.linear(f"{name}.key", source, width, bias=bias)
        self.linear(f"{name}.value", source, width, bias=bias)
        self.linear(f"{name}.out", width, width)


def _level(table: _Table, config: UNetConfig, place: str, index: int, inputs: list[int]) -> None:
    for i, channels in enumerate(inputs):
        out_channels = config.block_channels[index]
        table.residual(f"{place}.blocks.{i}", channels, out_channels, config.embedding_width)
        if config.attention_levels[index]:
            _transformer(table, config, f"{place}.transformers.{i}", index)


def _transformer(table: _Table, config: UNetConfig, place: str, index: int, *, middle: bool = False) -> None:
    width, context = config.block_channels[index], config.context_width
    only = config.context_only_levels is not None and config.context_only_levels[index] and not middle
    table.norm(f"{place}.norm", width)
    for door in ("enter", "leave"):
        if config.linear_projection:
            table.linear(f"{place}.{door}", width, width)
        else:
            table.conv(f"{place}.{door}", width, width, side=1)
    for i in range(config.transformer_depth[index]):
        block = f"{place}.blocks.{i}"
        table.norm(f"{block}.norm_self", width)
        table.attention(f"{block}.attend_self", width, context if only else width)
        if context:
            table.norm(f"{block}.norm_context", width)
            table.attention(f"{block}.attend_context", width, context)
        table.norm(f"{block}.norm_feed", width)
        table.linear(f"{block}.feed.up", width, 8 * width)
        table.linear(f"{block}.feed.down", 4 * width, width)


def _half(
    table: _Table, config: AutoencoderConfig, place: str, channels: int, widths: tuple[int, ...], out: int
) -> None:
    """Encoder or decoder; `widths` in the order in which it runs through them."""
    layers = config.layers_per_block + (place == "decoder")
    table.conv(f"{place}.enter", channels, widths[0])
    for i, width in enumerate(widths):
        for j in range(layers):
            table.residual(f"{place}.levels.{i}.blocks.{j}", width if j else widths[max(i - 1, 0)], width)
        if i < len(widths) - 1:
            table.conv(f"{place}.levels.{i}.resample.conv", width, width)
    deepest = widths[-1] if place == "encoder" else widths[0]
    table.residual(f"{place}.middle.block1", deepest, deepest)
    if config.mid_attention:
        table.norm(f"{place}.middle.attention.norm", deepest)
        table.attention(f"{place}.middle.attention.attention", deepest, deepest, bias=True)
    table.residual(f"{place}.middle.block2", deepest, deepest)
    table.norm(f"{place}.norm", widths[-1])
    table.conv(f"{place}.leave", widths[-1], out)
