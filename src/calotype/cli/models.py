"""`calotype models`: what there is to draw with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def models() -> None:
    """List the models in the package, and all that lies in the folder CALOTYPE_MODELS: models, LoRAs, textual
    inversions, autoencoders, and the files that cannot be read with the reason.
    """
    import logging

    from calotype.checkpoints import collection, shelf

    logging.getLogger("calotype").setLevel(logging.ERROR)  # `calotype inspect` says how things were decided
    _print_shipped(shelf.shipped().values())
    folder = collection.models_folder()
    if folder is not None:
        _print_collection(folder, collection.entries(folder))


def _print_shipped(paths: Iterable[Path]) -> None:
    from calotype.checkpoints import native_file

    found = [native_file.describe(path) for path in paths]
    if not found:
        print("There are no models in this package.")
        return
    _print_table(
        ("name", "picture", "parameters", "file", "SHA-256", "draws"),
        [
            (
                info.path.stem,
                f"{info.config.size}x{info.config.size}",
                f"{sum(info.parameters.values()) / 1e6:.1f} M",
                f"{info.path.stat().st_size / 1e6:.1f} MB",
                info.weights_hash[:12],
                info.config.about,
            )
            for info in found
        ],
    )


def _print_collection(folder: Path, entries: dict[str, Path]) -> None:
    from calotype.checkpoints import doctor
    from calotype.errors import CalotypeError, printable

    print(f"\nin {folder}:" if entries else f"\n{folder} holds no models.")
    rows = []
    for name, path in entries.items():
        try:
            what, family = map(printable, doctor.glance(path))
        except CalotypeError as error:
            what, family = "not usable", str(error)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        rows.append(
            (printable(name), what, f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB", family)
        )
    if rows:
        _print_table(("name", "what", "size", "for"), rows)


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
