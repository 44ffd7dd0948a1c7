"""Signature: who vouches for a store. An Ed25519 key signs the plan and the records in force, and so every chunk.

zmend/signature.json     {"schema", "head", "records", "public", "signature"}

The plan binds flags and recipe, a record binds its inputs and the sha256 of its chunks. Whatever changes what is in
force removes the signature. Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.recipe import canonical, digest
from pipeline.store import read_attrs

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY, SCHEMA = "zmend/signature.json", "zmend-signature/1"
MAKE = "openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem"


def signed(out: str) -> dict[str, str]:
    """What a signature is over: the hash of the plan in force, and one sha256 of all its records."""
    lines = sorted(f"{i} {digest(record)}\n" for i, record in Ledger(out).records() if record is not None)
    head = str(read_attrs(out)["zmend"].get("head", ""))
    return {"schema": SCHEMA, "head": head, "records": sha256("".join(lines).encode()).hexdigest()}


def sign(out: str, key: Ed25519PrivateKey) -> str:
    """Sign what is in force; returns the public key in hexadecimal. For the holder of the store's lock."""
    body, public = signed(out), key.public_key().public_bytes_raw().hex()
    whole = {**body, "public": public, "signature": key.sign(canonical(body).encode()).hex()}
    Files(out).keep(KEY, json.dumps(whole, indent=1).encode())
    return public


def faults(out: str, public: str = "") -> list[str]:
    """What is wrong with the store's signature. public: the key, in hexadecimal, that it must be of."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = Files(out).read(KEY)
    if raw is None:
        return ["nobody has signed this store: zmend run CONFIG --sign KEY"]
    try:
        said = json.loads(raw)
        whose, made = str(said.pop("public")), bytes.fromhex(said.pop("signature"))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(whose)).verify(made, canonical(said).encode())
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError) as e:
        return [f"the signature is none ({type(e).__name__}): it was edited"]
    found = [f"it is signed with another key, {whose[:16]}…"] if public and whose != public else []
    return found + (["plan or records are not those that were signed"] if said != signed(out) else [])


def private_key(path: str) -> Ed25519PrivateKey:
    """The key to sign with. Raises UsageError where the file holds none, or one that a passphrase protects."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _loaded(path, lambda raw: load_pem_private_key(raw, None), Ed25519PrivateKey, "private")  # type: ignore[no-any-return]


def public_key(path: str) -> str:
    """The key, in hexadecimal, that a store must be signed with. Raises UsageError where the file holds none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return str(_loaded(path, load_pem_public_key, Ed25519PublicKey, "public").public_bytes_raw().hex())


def _loaded(path: str, load: Any, kind: type, name: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key: Any = load(Path(path).expanduser().read_bytes())
        why = "" if isinstance(key, kind) else "it is of another kind"
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
        why = str(e).splitlines()[0] if str(e) else type(e).__name__
    if why:
        raise UsageError(f"this is no {name} Ed25519 key in PEM", where=path, why=why, do=MAKE)
    return key
