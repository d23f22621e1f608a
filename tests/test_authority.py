"""Sealing of the restorer: what opens, what does not, and what is said."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import authority
from runtime.authority import Secret, generate_key, load_secret, seal, unseal
from runtime.errors import BundleError, SecretError
from runtime.manifest import Bundle, ModelFile, open_bundle, sha256_of
from runtime.rotation import reseal_bundle
from tests.manifests import manifest as plain_manifest

KEY = Secret.from_key(bytes(range(32)))
OTHER_KEY = Secret.from_key(bytes(range(1, 33)))
CONTEXT = b"restore.onnx"
HEADER_BYTES = 64


@pytest.fixture
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakest scrypt that a file may ask for: 16 MiB instead of 128."""
    monkeypatch.setattr(authority, "SCRYPT_N", 2**14)


@settings(max_examples=50, deadline=None)
@given(
    plaintext=st.binary(max_size=500), context=st.binary(max_size=40), key=st.binary(min_size=32, max_size=32)
)
def test_round_trip(plaintext: bytes, context: bytes, key: bytes) -> None:
    secret = Secret.from_key(key)
    sealed = seal(plaintext, secret, context=context)
    assert unseal(sealed, secret, context=context) == plaintext
    assert len(sealed) == HEADER_BYTES + len(plaintext) + 16


def test_passphrase_round_trip_ignores_unicode_spelling(cheap_scrypt: None) -> None:
    sealed = seal(b"weights", Secret.from_passphrase("caf\u00e9 au lait"), context=CONTEXT)
    assert unseal(sealed, Secret.from_passphrase("cafe\u0301 au lait"), context=CONTEXT) == b"weights"
    with pytest.raises(SecretError, match="wrong passphrase"):
        unseal(sealed, Secret.from_passphrase("cafe au lait"), context=CONTEXT)


def test_sealing_twice_shares_no_nonce_or_ciphertext() -> None:
    first, second = (seal(b"weights" * 9, KEY, context=CONTEXT) for _ in range(2))
    assert first[40:52] != second[40:52]
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]
    assert b"weights" not in first


def test_wrong_key_is_told_from_tampering() -> None:
    sealed = seal(b"weights", KEY, context=CONTEXT)
    with pytest.raises(SecretError, match=r"wrong key: the file was sealed with key id [0-9a-f]{16}"):
        unseal(sealed, OTHER_KEY, context=CONTEXT)
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(SecretError, match="changed or damaged"):
        unseal(damaged, KEY, context=CONTEXT)


def test_kind_of_secret_must_match() -> None:
    with pytest.raises(SecretError, match="sealed with a key, found a passphrase"):
        unseal(seal(b"x", KEY, context=CONTEXT), Secret.from_passphrase("long enough"), context=CONTEXT)


def test_every_changed_byte_is_noticed() -> None:
    sealed = seal(b"weights", KEY, context=CONTEXT)
    for position in range(len(sealed)):
        for flip in (0x01, 0x80):
            changed = bytearray(sealed)
            changed[position] ^= flip
            with pytest.raises(SecretError):
                unseal(bytes(changed), KEY, context=CONTEXT)


@given(cut=st.integers(min_value=0, max_value=86))
def test_every_cut_is_noticed(cut: int) -> None:
    sealed = seal(b"weights", KEY, context=CONTEXT)
    assert len(sealed) == 87
    with pytest.raises(SecretError):
        unseal(sealed[:cut], KEY, context=CONTEXT)


def test_swapped_context_is_noticed() -> None:
    sealed = seal(b"weights", KEY, context=b"restore.onnx")
    with pytest.raises(SecretError, match=r"another use than 'protect\.onnx'"):
        unseal(sealed, KEY, context=b"protect.onnx")


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=200), lead=st.sampled_from([b"", b"EMSEALED", b"EMSEALED\x01\x00"]))
def test_junk_is_a_secret_error(junk: bytes, lead: bytes) -> None:
    with pytest.raises(SecretError):
        unseal(lead + junk, KEY, context=CONTEXT)


@pytest.mark.parametrize(
    ("n", "r", "p"),
    [
        (2**31, 8, 1),
        (2**17, 2**31, 1),
        (2**17, 8, 2**31),
        (2**13, 8, 1),
        (2**17 + 1, 8, 1),
        (0, 0, 0),
        (2**17, 0, 1),
    ],
)
def test_hostile_scrypt_parameters_are_refused_before_scrypt_runs(
    n: int, r: int, p: int, cheap_scrypt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = Secret.from_passphrase("long enough")
    sealed = bytearray(seal(b"weights", secret, context=CONTEXT))
    sealed[12:24] = struct.pack(">III", n, r, p)
    monkeypatch.setattr(authority, "Scrypt", None)
    with pytest.raises(SecretError, match="outside of what is safe"):
        unseal(bytes(sealed), secret, context=CONTEXT)


def test_unknown_version_and_derivation_are_named() -> None:
    sealed = bytearray(seal(b"weights", KEY, context=CONTEXT))
    sealed[8] = 9
    with pytest.raises(SecretError, match="has version 9, this program reads 1"):
        unseal(bytes(sealed), KEY, context=CONTEXT)
    sealed[8:10] = bytes([1, 7])
    with pytest.raises(SecretError, match="unknown key derivation, 7"):
        unseal(bytes(sealed), KEY, context=CONTEXT)


def test_repr_never_shows_the_secret() -> None:
    shown = repr(Secret.from_passphrase("correct horse")) + repr(KEY) + str(KEY)
    assert "horse" not in shown
    assert repr(bytes(range(32))) not in shown


def test_key_file_round_trip(tmp_path: Path) -> None:
    path, key = tmp_path / "authority.key", generate_key()
    identity = authority.write_key_file(path, key)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert f"Key-Id: {identity}" in path.read_text()
    sealed = seal(b"weights", Secret.from_key(key), context=CONTEXT)
    assert unseal(sealed, load_secret(path, None), context=CONTEXT) == b"weights"


def test_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "authority.key"
    authority.write_key_file(path, generate_key())
    before = path.read_bytes()
    with pytest.raises(SecretError, match="never overwritten"):
        authority.write_key_file(path, generate_key())
    assert path.read_bytes() == before


def test_damaged_key_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "authority.key"
    authority.write_key_file(path, generate_key())
    text = path.read_text()
    lines = text.splitlines()
    for broken in ("", "hello", text.replace("Key-Id: ", "Key-Id: 0"), text.replace(lines[3], lines[3][4:])):
        path.write_text(broken)
        with pytest.raises(SecretError, match=r"not a key file|damaged"):
            authority.read_key_file(path)
    path.write_bytes(bytes(5000))
    with pytest.raises(SecretError, match="not a key file"):
        authority.read_key_file(path)


def test_load_secret_wants_exactly_one(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="found none"):
        load_secret(None, None)
    with pytest.raises(SecretError, match="found both"):
        load_secret(tmp_path / "k", "passphrase")
    with pytest.raises(SecretError, match="at least 8 characters, found 5"):
        load_secret(None, "short")
    with pytest.raises(SecretError, match="cannot read the key file"):
        load_secret(tmp_path / "absent.key", None)


def make_bundle(folder: Path, *, secret: Secret, sealed: bool = True, role: str = "authority") -> Bundle:
    """A bundle whose restorer is eight bytes and whose protector is three."""
    data = authority.seal_bundle_model(b"restorer", secret) if sealed else b"restorer"
    folder.mkdir()
    files = {"restore": ("restore.onnx.sealed", data, sealed), "protect": ("protect.onnx", b"abc", False)}
    for path, content, _ in files.values():
        (folder / path).write_bytes(content)
    manifest = plain_manifest(
        role=role,
        demo=True,
        models={
            name: ModelFile(path=path, sha256=sha256_of(content), sealed=is_sealed)
            for name, (path, content, is_sealed) in files.items()
        },
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    (folder / "demo.key").write_text("not copied")
    return open_bundle(folder)


def test_unseal_model(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "a", secret=KEY)
    assert authority.unseal_model(bundle, KEY) == b"restorer"
    with pytest.raises(SecretError, match="wrong key"):
        authority.unseal_model(bundle, OTHER_KEY)


def test_unseal_model_refuses_public_plain_and_changed_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="public bundle"):
        authority.unseal_model(make_bundle(tmp_path / "a", secret=KEY, role="public"), KEY)
    with pytest.raises(BundleError, match="not sealed"):
        authority.unseal_model(make_bundle(tmp_path / "b", secret=KEY, sealed=False), KEY)
    changed = make_bundle(tmp_path / "c", secret=KEY)
    (changed.folder / "restore.onnx.sealed").write_bytes(b"other")
    with pytest.raises(BundleError, match="was changed or damaged"):
        authority.unseal_model(changed, KEY)


def test_reseal_rotates_the_secret_and_copies_only_what_the_manifest_names(tmp_path: Path) -> None:
    old = make_bundle(tmp_path / "old", secret=KEY)
    new = reseal_bundle(old, KEY, OTHER_KEY, tmp_path / "new")
    assert authority.unseal_model(new, OTHER_KEY) == b"restorer"
    with pytest.raises(SecretError, match="wrong key"):
        authority.unseal_model(new, KEY)
    assert new.read("protect") == b"abc"
    assert new.manifest.demo
    assert sorted(p.name for p in new.folder.iterdir()) == [
        "manifest.json",
        "protect.onnx",
        "restore.onnx.sealed",
    ]
    assert not any(b"restorer" in path.read_bytes() for path in new.folder.glob("*.sealed"))


def test_reseal_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    old = make_bundle(tmp_path / "old", secret=KEY)
    with pytest.raises(BundleError, match="exists"):
        reseal_bundle(old, KEY, OTHER_KEY, tmp_path / "old")
    with pytest.raises(SecretError, match="wrong key"):
        reseal_bundle(old, OTHER_KEY, KEY, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
