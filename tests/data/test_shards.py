"""Shards give back what the folder held that they were made of; webdataset reads them."""

from __future__ import annotations

import json
import tarfile
import warnings
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from calotype.data.folder import PictureFolder
from calotype.data.shards import ShardFolder, shards_of, write_shards
from calotype.errors import DataError, OutputError


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (20, 16), (10 * number, 255 - 10 * number, 90))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes in two splits, and one file that is no picture."""
    folder = tmp_path / "set"
    for number in range(12):
        place = folder / ("test" if number >= 8 else "train") / ("ten" if number % 2 else "9")
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    (folder / "train/ten/broken.png").write_bytes(b"no picture")
    return folder


def test_shards_give_back_what_the_folder_holds(classes: Path, tmp_path: Path) -> None:
    folder = PictureFolder(classes)
    assert write_shards(folder, tmp_path / "shards", 3) == {"test": 4, "train": 8}
    assert [path.name for path in folder.skipped[0][:1]] == ["broken.png"]
    assert [path.name for path in shards_of(tmp_path / "shards")] == [
        *(f"test-{i:06d}.tar" for i in range(2)),
        *(f"train-{i:06d}.tar" for i in range(3)),
    ]
    found = ShardFolder(tmp_path / "shards")
    assert found.classes == PictureFolder(classes).classes == ("9", "ten")
    again = found.pictures(8)
    assert again.shape == (12, 3, 8, 8)
    plain = PictureFolder(classes)
    pixels = plain.load_all(8)
    where = {record.path.relative_to(classes).as_posix(): i for i, record in enumerate(plain.records)}
    for row, record in enumerate(found.records):
        i = where[record.meta["file_name"]]
        assert torch.equal(again[torch.tensor(row)], pixels[i])
        assert (record.captions, record.label) == (plain.records[i].captions, plain.records[i].label)
        assert record.meta["split"] == plain.records[i].meta["split"]
    assert torch.equal(torch.cat(list(again.split(5))), again[torch.arange(12)])
    assert torch.equal(again.subset([3, 1])[:1], again[torch.tensor([3])])
    assert again[torch.arange(0)].shape == (0, 3, 8, 8)


def test_the_same_set_gives_the_same_bytes(classes: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shards(PictureFolder(classes), tmp_path / name, 100)
    hashes = {ShardFolder(tmp_path / name).content_hash() for name in ("one", "two")}
    assert len(hashes) == 1
    with pytest.raises(OutputError, match="name a new or empty folder"):
        write_shards(PictureFolder(classes), tmp_path / "one", 100)


def test_webdataset_reads_them(classes: Path, tmp_path: Path) -> None:
    write_shards(PictureFolder(classes), tmp_path / "shards", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        samples = list(webdataset.WebDataset(str(tmp_path / "shards/train-000000.tar"), shardshuffle=False))
    assert len(samples) == 8
    for sample in samples:
        told = json.loads(sample["json"])
        number = int(told["file_name"].split("/")[-1].removesuffix(".png"))
        with Image.open(BytesIO(sample["png"])) as image:
            assert image.tobytes() == picture(number).tobytes()
        assert told["class"] == ("ten" if number % 2 else "9")
        assert sample["cls"] == str(number % 2).encode()


def pack(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))


def png(number: int) -> bytes:
    buffer = BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def test_other_peoples_shards(tmp_path: Path) -> None:
    members = {
        "a/1.seg.txt": b"unused",  # a longer suffix is another thing of the sample's
        "a/1.jpg": png(1),
        "a/1.txt": "a dog\n一只狗\n".encode(),
        "a/2.png": png(2),
        "a/2.json": b'{"caption": "a cat", "width": 20}',
        "a/3.json": b'{"text": "words without a picture"}',
        "b/1.webp": png(3),
        "b/1.cls": b"10",
        "b/2.png": png(4),
        "b/2.cls": b"9",
    }
    pack(tmp_path / "validation-0.tar", members)
    found = ShardFolder(tmp_path / "validation-0.tar")
    assert [record.captions for record in found.records] == [("a dog", "一只狗"), ("a cat",), (), ()]
    assert found.classes == ("9", "10")
    assert [record.label for record in found.records] == [None, None, 1, 0]
    assert found.records[1].meta == {"split": "validation", "width": 20}


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(DataError, match=r"x\.tar is no readable tar file"):
        ShardFolder(tmp_path)
    pack(tmp_path / "x.tar", {"1.png": b"no picture", "2.png": png(2)})
    found = ShardFolder(tmp_path).pictures(8)
    assert found[torch.tensor([1])].shape == (1, 3, 8, 8)
    with pytest.raises(DataError, match=r"1\.png in .*x\.tar is not a picture: repair the shard"):
        found[torch.tensor([0])]
    (tmp_path / "x.tar").unlink()
    with pytest.raises(DataError, match=r"x\.tar cannot be read \(No such file or directory\): put it back"):
        found[torch.tensor([1])]
    for members, words in (
        ({"1.txt": b"words"}, "hold no pictures"),
        ({"1.png": png(1), "1.json": b"{"}, r"belongs to 1\.png in .* cannot be read"),
        ({"1.png": png(1), "1.json": b"[]"}, r"The \.json of 1\.png .* is no object"),
    ):
        pack(tmp_path / "x.tar", members)
        with pytest.raises(DataError, match=words):
            ShardFolder(tmp_path)
