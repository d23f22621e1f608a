"""The authority's secret: keys, passphrases, and the sealing of the restorer with AES-256-GCM.

A sealed file is a header of 64 bytes, the ciphertext and GCM's tag of 16 bytes. All numbers are big-endian:

====== ======= ==============================================================================
Offset Size    Meaning
====== ======= ==============================================================================
0      8       magic ``EMSEALED``
8      1       version of this layout, 1
9      1       where the key comes from: 0 a key file, 1 a passphrase through scrypt
10     2       zero
12     4       scrypt's n, 0 with a key file
16     4       scrypt's r, 0 with a key file
20     4       scrypt's p, 0 with a key file
24     16      scrypt's salt, zeros with a key file
40     12      GCM's nonce, random for every sealing
52     8       key id: the first bytes of a hash of the AES key, which tells a wrong key from a change
60     4       zero
====== ======= ==============================================================================

The whole header and a context, which says what the file is for, are authenticated: a file that was
changed, or put in the place of another, does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import struct
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from .errors import BundleError, SecretError
from .manifest import Bundle

KEY_BYTES = 32
MIN_PASSPHRASE_CHARS = 8

MAGIC = b"EMSEALED"
VERSION = 1
_HEADER = struct.Struct(">8sBB2xIII16s12s8s4x")
_TAG_BYTES = 16
_KDF_KEY, _KDF_SCRYPT = 0, 1

# 128 MiB and about half a second: OWASP's first choice for scrypt.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
# What a file may ask for. Weaker is refused as unsafe; stronger would let a hostile file eat the machine.
_SCRYPT_MIN_N = 2**14
_SCRYPT_MAX_MEMORY = 2**28
_SCRYPT_MAX_P = 4

_RESTORE = "restore"
_RESTORE_CONTEXT = b"erasablemask bundle: restore.onnx"

_KEY_BEGIN = "-----BEGIN ERASABLEMASK AUTHORITY KEY-----"
_KEY_END = "-----END ERASABLEMASK AUTHORITY KEY-----"
_KEY_FILE_MAX_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Secret:
    """What opens a sealed file: 32 random bytes, or a passphrase. Its ``repr`` never shows it."""

    kind: Literal["key", "passphrase"]
    _material: bytes = field(repr=False)

    @classmethod
    def from_key(cls, key: bytes) -> Secret:
        """A secret of 32 bytes.

        Raises:
            SecretError: the length is another.
        """
        if len(key) != KEY_BYTES:
            raise SecretError(
                f"a key has {KEY_BYTES} bytes, found {len(key)}; make one with: erasablemask keygen"
            )
        return cls("key", bytes(key))

    @classmethod
    def from_passphrase(cls, passphrase: str) -> Secret:
        """A secret that scrypt turns into a key. Unicode is normalised, so that keyboards do not matter.

        Raises:
            SecretError: fewer than 8 characters.
        """
        normal = unicodedata.normalize("NFC", passphrase)
        if len(normal) < MIN_PASSPHRASE_CHARS:
            raise SecretError(
                f"a passphrase has at least {MIN_PASSPHRASE_CHARS} characters, found {len(normal)}"
            )
        return cls("passphrase", normal.encode("utf-8"))


@dataclass(frozen=True)
class _Header:
    """The parsed header of a sealed file; see the table above."""

    kdf: int
    n: int
    r: int
    p: int
    salt: bytes
    nonce: bytes
    key_id: bytes

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC, VERSION, self.kdf, self.n, self.r, self.p, self.salt, self.nonce, self.key_id
        )


def generate_key() -> bytes:
    """32 bytes from the system's random source."""
    return secrets.token_bytes(KEY_BYTES)


def key_id(key: bytes) -> str:
    """16 hex digits that name a key without giving it away."""
    return _key_id(key).hex()


def write_key_file(path: Path, key: bytes) -> str:
    """Writes a key as text, readable by its owner only.

    Returns:
        The key id.

    Raises:
        SecretError: the file exists, or cannot be written. An existing key is never overwritten.
    """
    Secret.from_key(key)
    text = f"{_KEY_BEGIN}\nKey-Id: {key_id(key)}\n\n{base64.b64encode(key).decode()}\n{_KEY_END}\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SecretError(f"{path} exists, and keys are never overwritten; choose another name") from error
    except OSError as error:
        raise SecretError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise SecretError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    return key_id(key)


def read_key_file(path: Path) -> bytes:
    """Reads a key that ``write_key_file`` wrote.

    Raises:
        SecretError: the file cannot be read, is no key file, or its key id does not match its key.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_KEY_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(f"cannot read the key file {path}: {error.strerror or error}") from error
    lines = [line.strip() for line in raw.decode("ascii", errors="replace").splitlines() if line.strip()]
    if len(raw) > _KEY_FILE_MAX_BYTES or len(lines) != 4 or (lines[0], lines[3]) != (_KEY_BEGIN, _KEY_END):
        raise SecretError(f"{path} is not a key file of erasablemask; make one with: erasablemask keygen")
    try:
        key = base64.b64decode(lines[2], validate=True)
    except binascii.Error as error:
        raise SecretError(f"the key file {path} is damaged: {error}") from error
    if len(key) != KEY_BYTES or lines[1] != f"Key-Id: {key_id(key)}":
        raise SecretError(f"the key file {path} is damaged: its key does not match its key id")
    return key


def load_secret(key_file: Path | None = None, passphrase: str | None = None) -> Secret:
    """The secret from a key file or a passphrase, of which exactly one is given.

    Raises:
        SecretError: none or both are given, or the one given is unusable.
    """
    if (key_file is None) == (passphrase is None):
        found = "none" if key_file is None else "both"
        raise SecretError(f"expected either a key file or a passphrase, found {found}")
    if key_file is not None:
        return Secret.from_key(read_key_file(key_file))
    assert passphrase is not None
    return Secret.from_passphrase(passphrase)


def seal(plaintext: bytes, secret: Secret, *, context: bytes) -> bytes:
    """Encrypts and authenticates bytes with AES-256-GCM.

    Args:
        plaintext: what to hide.
        secret: the key or passphrase.
        context: what the file is for; unsealing demands the same.

    Returns:
        Header, ciphertext and tag.
    """
    if secret.kind == "key":
        kdf, n, r, p, salt = _KDF_KEY, 0, 0, 0, bytes(16)
    else:
        kdf, n, r, p, salt = _KDF_SCRYPT, SCRYPT_N, SCRYPT_R, SCRYPT_P, secrets.token_bytes(16)
    aes_key = _aes_key(secret, n, r, p, salt)
    header = _Header(kdf, n, r, p, salt, nonce=secrets.token_bytes(12), key_id=_key_id(aes_key))
    packed = header.pack()
    return packed + AESGCM(aes_key).encrypt(header.nonce, plaintext, packed + context)


def unseal(sealed: bytes, secret: Secret, *, context: bytes) -> bytes:
    """Opens what ``seal`` made, in memory.

    Raises:
        SecretError: not a sealed file, another version, a wrong key or passphrase, a change anywhere, or
            another context.
    """
    header = _parse(sealed)
    expected = "key" if header.kdf == _KDF_KEY else "passphrase"
    if secret.kind != expected:
        raise SecretError(f"this file was sealed with a {expected}, found a {secret.kind}")
    aes_key = _aes_key(secret, header.n, header.r, header.p, header.salt)
    if not hmac.compare_digest(_key_id(aes_key), header.key_id):
        raise SecretError(
            f"wrong {secret.kind}: the file was sealed with key id {header.key_id.hex()}, "
            f"found {key_id(aes_key)} (or the file's header was changed)"
        )
    packed, ciphertext = sealed[: _HEADER.size], sealed[_HEADER.size :]
    try:
        return AESGCM(aes_key).decrypt(header.nonce, ciphertext, packed + context)
    except InvalidTag as error:
        raise SecretError(
            "the sealed file was changed or damaged, or was sealed for another use "
            f"than {context.decode(errors='replace')!r}; get it again from its publisher"
        ) from error


def seal_bundle_model(onnx_bytes: bytes, secret: Secret) -> bytes:
    """Seals the restorer for an authority bundle; the exporter writes the result and never the input."""
    return seal(onnx_bytes, secret, context=_RESTORE_CONTEXT)


def unseal_model(bundle: Bundle, secret: Secret) -> bytes:
    """The restorer's ONNX bytes, hash checked and unsealed in memory; they must never reach a disk.

    Raises:
        BundleError: not an authority bundle, or its file is missing, changed or not sealed.
        SecretError: the secret does not open it.
    """
    if bundle.manifest.role != "authority":
        raise BundleError(f"{bundle.folder} is a public bundle; only an authority bundle holds the restorer")
    data = bundle.read(_RESTORE)
    if not bundle.manifest.models[_RESTORE].sealed:
        raise BundleError(f"the restorer in {bundle.folder} is not sealed, which no exporter does; refused")
    return unseal(data, secret, context=_RESTORE_CONTEXT)


def _parse(sealed: bytes) -> _Header:
    """Parses and bounds a header; what lies in it is not yet authenticated."""
    if len(sealed) < _HEADER.size + _TAG_BYTES or not sealed.startswith(MAGIC):
        raise SecretError("this is not a file sealed by erasablemask (its header is missing or cut)")
    _, version, kdf, n, r, p, salt, nonce, identity = _HEADER.unpack_from(sealed)
    if version != VERSION:
        raise SecretError(
            f"the sealed file has version {version}, this program reads {VERSION}; update erasablemask"
        )
    if kdf not in (_KDF_KEY, _KDF_SCRYPT):
        raise SecretError(f"the sealed file names an unknown key derivation, {kdf}")
    if kdf == _KDF_SCRYPT:
        strong_enough = n >= _SCRYPT_MIN_N and n & (n - 1) == 0
        affordable = 0 < 128 * n * r <= _SCRYPT_MAX_MEMORY and 0 < p <= _SCRYPT_MAX_P
        if not (strong_enough and affordable):
            raise SecretError(
                f"the sealed file asks for scrypt with n={n}, r={r}, p={p}, outside of what is safe: n a "
                f"power of two from {_SCRYPT_MIN_N}, at most {_SCRYPT_MAX_MEMORY >> 20} MiB, "
                f"p at most {_SCRYPT_MAX_P}"
            )
    return _Header(kdf, n, r, p, salt, nonce, identity)


def _aes_key(secret: Secret, n: int, r: int, p: int, salt: bytes) -> bytes:
    if secret.kind == "key":
        return secret._material
    return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(secret._material)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"erasablemask key id\0" + key).digest()[:8]
