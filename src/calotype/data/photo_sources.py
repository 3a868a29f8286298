"""Where the photographs that `photo` was trained on come from: a literal table of Debian's packages.

Only photographs are listed, by file name; drawn and rendered wallpapers teach a denoiser smooth colours and
nothing else.  Every package is pinned by its SHA-256; each photograph has its author and licence as the
package's copyright file states them.
"""

from dataclasses import dataclass

from calotype.data.sources import Package


@dataclass(frozen=True)
class PhotoPackage:
    """Photographs of one package: `files` by name under `folder`, each with (author, licence)."""

    package: Package
    folder: str
    files: dict[str, tuple[str, str]]


def _all(author: str, licence: str, *names: str) -> dict[str, tuple[str, str]]:
    return dict.fromkeys(names, (author, licence))


PHOTO_PACKAGES = (
    PhotoPackage(
        Package(
            "apt",
            "mate-backgrounds",
            "1.26.0-1",
            "mate-backgrounds_1.26.0-1_all.deb",
            "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        ),
        "usr/share/backgrounds/mate/nature",
        {
            **_all("Charles Barbin", "GPL-2+", "Aqua.jpg", "LadyBird.jpg", "YellowFlower.jpg", "Garden.jpg"),
            **_all("Lennart Poettering, Andrea Cimitan", "GPL-2+", "Blinds.jpg"),
            **_all("Marco Cogoni, Hylke Bons", "GPL-2+", "Dune.jpg"),
            **_all("Timothy Schellhase, Lapo Calamandrei", "GPL-2+", "GreenMeadow.jpg"),
            **_all("blackcombwhistler07", "GPL-2+", "RainDrops.jpg"),
            **_all("Sergey Nazarov", "GPL-2+", "Storm.jpg"),
            **_all("Charles Barbin, Hylke Bons", "GPL-2+", "TwoWings.jpg"),
            **_all("Jean-François Fortin Tam", "GPL-2+", "Wood.jpg"),
        },
    ),
    PhotoPackage(
        Package(
            "apt",
            "lomiri-wallpapers-16.04",
            "20.04.0-2",
            "lomiri-wallpapers-16.04_20.04.0-2_all.deb",
            "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        ),
        "usr/share/backgrounds",
        {
            **_all(
                "Aitzol Berasategi",
                "CC-BY-4.0",
                "aitzgorri_by_Aitzol_Berasategi.jpg",
                "friends_by_Aitzol_Berasategi.jpg",
                "life_by_Aitzol_Berasategi.jpg",
                "picosdeeuropa_by_Aitzol_Berasategi.jpg",
                "sunset_by_Aitzol_Berasategi.jpg",
            ),
            **_all(
                "Peter Nerlich",
                "CC-BY-SA-4.0",
                "analogpattern_by_Peter_Nerlich.jpg",
                "free_by_Peter_Nerlich.jpg",
                "greentock_by_Peter_Nerlich.jpg",
            ),
            **_all("Sander Klootwijk", "CC-BY-SA-4.0", "Bridge_by_Sander_Klootwijk.jpg"),
            **_all("Bolly", "CC-BY-SA-4.0", "Dragonfly_by_Bolly.jpg"),
            **_all(
                "Trevor 'Freespace'",
                "CC-BY-4.0",
                "Picture_0B_by_freespace.jpg",
                "Picture_1A_by_freespace.jpg",
            ),
            **_all("Clemens Engelhardt", "CC0-1.0", "seeding_by_Clements_Engelhardt.jpg"),
            **_all("Jakub Mede", "CC-BY-4.0", "Wine_by_Jakkub_Mede.jpg"),
        },
    ),
    PhotoPackage(
        Package(
            "apt",
            "lomiri-wallpapers-20.04",
            "20.04.0-2",
            "lomiri-wallpapers-20.04_20.04.0-2_all.deb",
            "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
        ),
        "usr/share/backgrounds",
        _all("Lukas Baubkus", "CC-BY-SA-3.0", "Kleiber_by_Lukas_Baubkus.jpg"),
    ),
    PhotoPackage(
        Package(
            "apt",
            "palapeli-data",
            "4:22.12.3-1",
            "palapeli-data_22.12.3-1_all.deb",
            "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058",
        ),
        "usr/share/palapeli/collection",
        {
            **_all("Eric Pouhier", "GFDL", "castle-maintenon.jpg"),
            **_all("Derek Jensen", "public domain", "cincinnati-bridge.jpg"),
            **_all("US Department of Agriculture", "public domain", "citrus-fruits.jpg"),
            **_all("John Severns", "public domain", "european-honey-bee.jpg"),
            **_all("B. Navez and others", "GFDL", "panther-chameleon-female.jpg"),
        },
    ),
    PhotoPackage(
        Package(
            "apt",
            "plasma-workspace-wallpapers",
            "4:5.27.5-2",
            "plasma-workspace-wallpapers_5.27.5-2_all.deb",
            "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        ),
        "usr/share/wallpapers",
        {
            f"{name}/contents/images/2560x1600.jpg": (author, "LGPL-3")
            for name, author in {
                "BytheWater": "Maciej Wiklo",
                "ColdRipple": "Risto Saukonpää",
                "ColorfulCups": "Dmitri Popov",
                "EveningGlow": "Ian Hex",
                "FallenLeaf": "Martin Klapetek",
                "Grey": "Sigi Sagi",
                "Kite": "Risto Saukonpää",
                "OneStandsOut": "Risto Saukonpää",
                "Path": "Risto Saukonpää",
            }.items()
        },
    ),
)
