"""C2PA: signed, read back by its own reader, changed and noticed."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin
import pytest

from calotype.errors import InputError
from calotype.safety import provenance
from calotype.safety.provenance import Credentials, Signer


@pytest.fixture
def png() -> bytes:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_itxt("calotype", '{"ä": 1}')
    buffer = io.BytesIO()
    PIL.Image.effect_noise((48, 40), 60).convert("RGB").save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def test_a_key_made_on_first_use(tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import c2pa
    from cryptography import x509

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    signer = Signer.named("self")
    folder = provenance.own_folder()
    key = folder / provenance.KEY
    before = key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    signed = tmp_path / "signed.png"
    signed.write_bytes(signer.sign(png))
    assert provenance.read(signed) == Credentials("Valid", "Calotype self-made signer", "Calotype 0.1.0")
    with PIL.Image.open(signed) as after, PIL.Image.open(io.BytesIO(png)) as original:
        assert after.tobytes() == original.tobytes()
        assert after.info["calotype"] == '{"ä": 1}'
    assert str(tmp_path).encode() not in signed.read_bytes()
    # a reader that trusts the root calls the signer trusted
    settings = {"trust": {"trust_anchors": (folder / provenance.ROOT).read_text()}}
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    with signed.open("rb") as file:
        reader = c2pa.Reader("image/png", file, context=context)
        assert reader.get_validation_state() == "Trusted"
        told = reader.json()
    told += x509.load_pem_x509_certificate((folder / provenance.ROOT).read_bytes()).subject.rfc4514_string()
    # as a word, as a host's name may be so short that it occurs among a signature's bytes
    assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", told)
    changed = bytearray(signed.read_bytes())
    changed[changed.rindex(b"IDAT") + 30] ^= 1
    (tmp_path / "changed.png").write_bytes(changed)
    found = provenance.read(tmp_path / "changed.png")
    assert found is not None
    assert found.state == "Invalid"
    Signer.named("self")
    assert key.read_bytes() == before
    (tmp_path / "plain.png").write_bytes(png)
    assert provenance.read(tmp_path / "plain.png") is None


def test_an_owners_folder(tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"put chain\.pem and key\.pem there, or say --sign self"):
        Signer.named(str(tmp_path))
    provenance.make(tmp_path)
    assert len(Signer.named(str(tmp_path)).sign(png)) > len(png)
    (tmp_path / provenance.KEY).write_text("no key")
    with pytest.raises(InputError, match="cannot sign"):
        Signer.named(str(tmp_path))
    other = tmp_path / "other"
    provenance.make(other)
    (tmp_path / provenance.KEY).write_bytes((other / provenance.KEY).read_bytes())
    with pytest.raises(InputError, match="cannot sign"):  # a key of another certificate
        Signer.named(str(tmp_path))
    monkeypatch.setattr(provenance, "installed", lambda: False)
    with pytest.raises(InputError, match="Signing is not installed; install it"):
        Signer.named("self")
