"""`calotype models`: what there is to draw with."""

from __future__ import annotations


def models() -> None:
    """List the models in the package: name, picture size, parameters, file size, hash, what it draws."""
    from calotype.checkpoints import native, shelf

    found = [native.describe(path) for path in shelf.shipped().values()]
    if not found:
        print("There are no models in this package.")
        return
    header = ("name", "picture", "parameters", "file", "SHA-256", "draws")
    rows = [
        (
            info.path.stem,
            f"{info.config.size}x{info.config.size}",
            f"{sum(info.parameters.values()) / 1e6:.1f} M",
            f"{info.path.stat().st_size / 1e6:.1f} MB",
            info.weights_hash[:12],
            info.config.about,
        )
        for info in found
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
