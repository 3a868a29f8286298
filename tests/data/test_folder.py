"""Folders of pictures: the three conventions, and what is said of bad ones."""

import json

import pytest
import torch
from PIL import Image

from calotype.data.folder import PictureFolder
from calotype.errors import DataError


def put(path, colour="red", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def describe(folder, *entries):
    lines = [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in entries]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_metadata_folder(tmp_path):
    put(tmp_path / "sub" / "a.png", (255, 0, 0))
    put(tmp_path / "b.png", (0, 0, 255))
    describe(
        tmp_path,
        {"file_name": "sub/a.png", "text": "red", "texts": ["red", "红"], "colour": "red", "split": "train"},
        {"file_name": "b.png", "text": "blue", "split": "test"},
    )
    folder = PictureFolder(tmp_path, size=4)
    assert len(folder) == 2
    assert folder.records[0].captions == ("red", "红")
    assert folder.records[0].meta == {"colour": "red", "split": "train"}
    assert folder.image(1).shape == (3, 4, 4)
    assert folder.image(1)[:, 0, 0].tolist() == [0, 0, 255]
    assert [r.path.name for r in PictureFolder(tmp_path, split="test").records] == ["b.png"]
    with pytest.raises(DataError, match="has no split named validation"):
        PictureFolder(tmp_path, split="validation")


def test_metadata_reads_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    describe(tmp_path, {"file_name": "a.png", "text": "a"})
    folder = PictureFolder(tmp_path)
    assert len(folder) == 1
    with pytest.raises(DataError, match=r"a\.png is not a picture: repair or remove it"):
        folder.image(0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"file_name": "gone.png", "text": "x"}, r"line 2 names gone\.png, which is missing"),
        ({"file_name": "../a.png", "text": "x"}, r"line 2 names \.\./a\.png, which is missing"),
        ({"text": "x"}, "line 2 has no `file_name`"),
        (["a.png"], "line 2 has no `file_name`"),
        ("{not json", "line 2 is not JSON"),
        ({"file_name": "a.png", "text": 3}, "line 2 has captions that are not text"),
        ({"file_name": "a.png", "texts": "x"}, "line 2 has captions that are not text"),
        ({"file_name": "a.png", "texts": ["x", None]}, "line 2 has captions that are not text"),
    ],
)
def test_bad_metadata_is_named_with_its_line(tmp_path, line, said):
    put(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": "a"}, line)
    with pytest.raises(DataError, match=said):
        PictureFolder(tmp_path)


def test_metadata_that_is_not_text(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        PictureFolder(tmp_path)


def test_sidecar_captions(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "deep" / "b.jpg")
    (tmp_path / "a.txt").write_text("a red square\n\nred\n")
    (tmp_path / "README.txt").write_text("about this folder")
    folder = PictureFolder(tmp_path)
    assert [r.captions for r in folder.records] == [("a red square", "red"), ()]
    assert folder.skipped == []


def test_sidecar_without_its_picture(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"b\.txt captions a picture that is missing"):
        PictureFolder(tmp_path)


def test_class_folders(tmp_path):
    for name in ("train/owl/1.png", "train/red_fox/1.png", "test/owl/2.png"):
        put(tmp_path / name)
    folder = PictureFolder(tmp_path)
    assert folder.classes == ("owl", "red_fox")
    assert [(r.captions, r.label) for r in PictureFolder(tmp_path, split="train").records] == [
        (("owl",), 0),
        (("red fox",), 1),
    ]
    assert len(PictureFolder(tmp_path, split="test")) == 1


def test_bare_pictures_are_all_train(tmp_path):
    put(tmp_path / "a.png")
    assert PictureFolder(tmp_path, split="train").records[0].captions == ()
    with pytest.raises(DataError, match=r"no split named test .none of its pictures"):
        PictureFolder(tmp_path, split="test")


def test_no_pictures(tmp_path):
    with pytest.raises(DataError, match=r"holds no pictures: put some there"):
        PictureFolder(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        PictureFolder(tmp_path / "gone")


def test_unfinished_build_is_refused(tmp_path):
    put(tmp_path / "noto" / "a.png")
    (tmp_path / "build.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="is an unfinished build: run `calotype data icons"):
        PictureFolder(tmp_path)


def bad_folder(path):
    for name in "abcd":
        put(path / f"{name}.png", (ord(name), 0, 0))
    (path / "b.png").write_bytes((path / "b.png").read_bytes()[:40])
    (path / "c.png").write_text("text")
    (path / "movie.mp4").write_bytes(b"\0")


def test_unreadable_files_are_named_and_counted(tmp_path):
    bad_folder(tmp_path)
    folder = PictureFolder(tmp_path, size=8)
    seen = []
    pictures = folder.load_all(progress=lambda done, total: seen.append((done, total)))
    assert pictures.shape == (2, 3, 8, 8)
    assert pictures.dtype == torch.uint8
    assert pictures[:, 0, 0, 0].tolist() == [ord("a"), ord("d")]
    assert [r.path.name for r in folder.records] == ["a.png", "d.png"]
    assert [path.name for path, _ in folder.skipped] == ["movie.mp4", "b.png", "c.png"]
    assert seen == [(4, 4)]


def test_verify_drops_the_same(tmp_path):
    bad_folder(tmp_path)
    folder = PictureFolder(tmp_path)
    folder.verify()
    assert len(folder) == 2
    assert len(folder.skipped) == 3


def test_strict_stops_at_the_first(tmp_path):
    bad_folder(tmp_path)
    with pytest.raises(DataError, match=r"movie\.mp4 is not a picture: repair or remove it"):
        PictureFolder(tmp_path, strict=True)
    (tmp_path / "movie.mp4").unlink()
    folder = PictureFolder(tmp_path, strict=True)
    with pytest.raises(DataError, match=r"b\.png is .*go on without --strict"):
        folder.verify()


def test_nothing_readable_at_all(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"holds no picture that can be read: .*a\.png is not a picture"):
        PictureFolder(tmp_path).verify()


def test_content_hash_follows_content(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one")
    first = PictureFolder(tmp_path).content_hash()
    assert PictureFolder(tmp_path).content_hash() == first
    (tmp_path / "a.txt").write_text("two")
    second = PictureFolder(tmp_path).content_hash()
    put(tmp_path / "a.png", "blue")
    assert len({first, second, PictureFolder(tmp_path).content_hash()}) == 3
