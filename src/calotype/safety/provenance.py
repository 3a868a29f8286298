"""C2PA content credentials: a signed statement in the file that a model made the picture (spec 2.1).

Signed with the owner's key, or with one that is made on first use and that nobody but its owner can know:
readers then call the signature valid and its signer untrusted.  Nothing is fetched, no time stamp asked for.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype import __version__, durable
from calotype.errors import InputError, OutputError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CHAIN, KEY, ROOT = "chain.pem", "key.pem", "root.pem"
"""In the signer's folder: certificates from the signer's up, its private key, and what readers may trust."""

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for a picture that a trained model made."""

EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a photograph that a trained model changed or mended."""

_DAYS = 3650
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_QUIET = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True)
class Credentials:
    """What a file's credentials say.

    state   Valid: unchanged since it was signed, the signer not known; Trusted: known too; Invalid
    signer  the name in its certificate, as anyone may have written it
    maker   the program that says it made the picture
    """

    state: str
    signer: str
    maker: str


class Signer:
    """Signs pictures with the key of a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the extra is missing, or the folder holds no key and chain that fit."""
        require()
        import c2pa

        try:
            chain, key = ((folder / name).read_bytes() for name in (CHAIN, KEY))
        except OSError as error:
            raise InputError(
                f"The signer's folder {folder} cannot be used ({error.strerror}: "
                f"{Path(error.filename).name}); put {CHAIN} and {KEY} there, or say --sign self."
            ) from None
        try:
            info = c2pa.C2paSignerInfo(_algorithm(key), chain, key, None)
            self._signer = c2pa.Signer.from_info(info)
            self._signed(_probe())
        except (c2pa.C2paError, ValueError, TypeError) as error:
            raise InputError(
                f"{CHAIN} and {KEY} in {folder} cannot sign ({error}); give a PEM chain, the signer's "
                "certificate first, and its key without a password."
            ) from None

    @classmethod
    def named(cls, where: str) -> Signer:
        """Of a folder, or of `self`: one made for this person on first use.  InputError, OutputError."""
        if where != "self":
            return cls(Path(where).expanduser())
        require()
        folder = own_folder()
        if not (folder / KEY).exists():
            make(folder)
        return cls(folder)

    def sign(self, png: bytes, source: str = SOURCE) -> bytes:
        """The PNG file with its credentials; pixels and texts stay as they are.  Raises OutputError.

        source  IPTC's word for how the picture came to be
        """
        import c2pa

        try:
            return self._signed(png, source)
        except c2pa.C2paError as error:
            raise OutputError(f"The picture cannot be signed ({error}).") from None

    def _signed(self, png: bytes, source: str = SOURCE) -> bytes:
        import c2pa

        action = {"action": "c2pa.created", "digitalSourceType": source}
        manifest = {
            "claim_generator_info": [{"name": "Calotype", "version": __version__}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        target = io.BytesIO()
        with c2pa.Builder(manifest, _context()) as builder:
            builder.sign(self._signer, "image/png", io.BytesIO(png), target)
        return target.getvalue()


def installed() -> bool:
    return all(find_spec(name) is not None for name in ("c2pa", "cryptography"))


def require() -> None:
    """InputError where the extra is missing."""
    if not installed():
        raise InputError("Signing is not installed; install it with pip install 'calotype[safety]'.")


def own_folder() -> Path:
    """Where the self-made key lies."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "calotype" / "c2pa"


def read(path: str | Path) -> Credentials | None:
    """The credentials of a file, None where it has none; InputError where the extra is missing."""
    require()
    import c2pa

    try:
        with open(path, "rb") as file:
            kind = _mime(file.read(12))
            file.seek(0)
            reader = None if kind is None else c2pa.Reader.try_create(kind, file, context=_context())
            if reader is None:
                return None
            manifest: dict[str, Any] = reader.get_active_manifest() or {}
            state = str(reader.get_validation_state())
    except c2pa.C2paError:
        return Credentials("Invalid", "unreadable", "unreadable")
    signed = manifest.get("signature_info") or {}
    makers = manifest.get("claim_generator_info") or [{}]
    maker = f"{makers[0].get('name', 'unknown')} {makers[0].get('version', '')}".strip()
    return Credentials(state, signed.get("common_name") or signed.get("issuer") or "unknown", maker)


def make(folder: Path) -> None:
    """A key, its certificate and the root that vouches for it, named after no person or machine.

    The root's own key is thrown away.  Raises OutputError where the folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    above, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("Calotype self-made root", above, None, above)
    own = _certificate("Calotype self-made signer", key, root, above)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / ROOT).write_bytes(root.public_bytes(pem))
        (folder / CHAIN).write_bytes(own.public_bytes(pem) + root.public_bytes(pem))
        partial = folder / f"{KEY}.{os.getpid()}"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        durable.rename(partial, folder / KEY)
    except OSError as error:
        raise OutputError(f"No key can be made in {folder}: {error.strerror}.") from None


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    above: x509.Certificate | None,
    signing: EllipticCurvePrivateKey,
) -> x509.Certificate:
    """As C2PA asks of a signer (14.5.1), or, with none above it, of a root."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root, now = above is None, datetime.now(UTC)
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Self-made with Calotype"),
        ]
    )
    usage = x509.KeyUsage(not root, False, False, False, False, root, root, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if above is None else above.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(root, 0 if root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    if not root:
        mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(mail, critical=False)
    return builder.sign(signing, hashes.SHA256())


def _algorithm(key: bytes) -> bytes:
    """C2PA's name for what the key signs with; ValueError for a key it has no name for."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    found = serialization.load_pem_private_key(key, None)
    if isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.name in _CURVES:
        return _CURVES[found.curve.name].encode()
    if isinstance(found, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(found, rsa.RSAPrivateKey):
        return b"ps256"
    raise ValueError("its key is none of P-256, P-384, P-521, Ed25519 and RSA")


def _context() -> Any:
    import c2pa

    return c2pa.Context(c2pa.Settings.from_dict(_QUIET))


def _mime(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG"):
        return "image/png"
    if head.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if head[:4] == b"RIFF" and head[8:] == b"WEBP" else None


def _probe() -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()
