"""Signature: who vouches for a store. An Ed25519 key signs plan, records and certificate, and so every chunk.

zmend/signature.json     {"schema", "head", "records", "certificate", "public", "signature"}

The plan binds flags and recipe, a record binds its inputs and the sha256 of its chunks. What runs tell of themselves
(zmend/runs) is not signed. Whatever changes what is in force moves the signature to zmend/runs/<run>/signature.json.
Those of before, zmend-signature/1, did not cover the certificate. Keys are PEM files, as
`openssl genpkey -algorithm ed25519` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.recipe import canonical, digest
from pipeline.seal import REMADE
from pipeline.store import read_attrs

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AGAIN = "zmend run CONFIG --sign KEY signs it again"
KEY, SCHEMA, FIRST = "zmend/signature.json", "zmend-signature/2", "zmend-signature/1"
CERTIFICATE = REMADE[0]
MAKE = "openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem"


def signed(out: str) -> dict[str, str]:
    """What a signature is over: the hash of the plan in force, one sha256 of all its records, and the certificate's."""
    lines = sorted(f"{i} {digest(record)}\n" for i, record in Ledger(out).records() if record is not None)
    head = str(read_attrs(out)["zmend"].get("head", ""))
    records = sha256("".join(lines).encode()).hexdigest()
    return {"schema": SCHEMA, "head": head, "records": records, "certificate": _certificate(out)}


def _certificate(out: str) -> str:
    """sha256 of the certificate; empty where there is none."""
    raw = Files(out).read(CERTIFICATE)
    return "" if raw is None else sha256(raw).hexdigest()


def sign(out: str, key: Ed25519PrivateKey) -> str:
    """Sign what is in force; returns the public key in hexadecimal. For the holder of the store's lock."""
    body, public = signed(out), key.public_key().public_bytes_raw().hex()
    whole = {**body, "public": public, "signature": key.sign(canonical(body).encode()).hex()}
    Files(out).keep(KEY, json.dumps(whole, indent=1).encode())
    return public


def take_away(out: str, run: str, tell: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """What was signed will not be in force any more: the signature becomes history of that run, and that is told."""
    files = Files(out)
    if files.stat(KEY) is not None:
        files.move(KEY, f"zmend/runs/{run}/signature.json")
        tell({"kind": "warning", "text": f"the signature is taken away: this run changes what it vouched for; {AGAIN}"})


def recertified(out: str, run: str, tell: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Take the signature away where the certificate is another than the one that it covers."""
    if _said(out).get("certificate", now := _certificate(out)) != now:
        take_away(out, run, tell)


def covered(out: str) -> str:
    """What the signature is over, in words."""
    return "plan and records" if _said(out).get("schema") == FIRST else "plan, records and certificate"


def _said(out: str) -> dict[str, Any]:
    """What the signature's document says; nothing where it cannot be read."""
    try:
        document = json.loads(Files(out).read(KEY) or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def taken_by(out: str) -> str:
    """The run that took the last signature away; empty where the store is signed, or never was."""
    runs = Files(out) / "zmend/runs"
    names = sorted(runs.names() or ()) if Files(out).stat(KEY) is None else []
    found = zip(names, runs.stats([f"{n}/signature.json" for n in names]), strict=True)
    return max((n for n, there in found if there), default="")


def said(out: str) -> str:
    """Whether a store is signed, in words; nothing is proved."""
    raw = Files(out).read(KEY)
    if raw is None:
        return f"no longer: run {run} took the signature away" if (run := taken_by(out)) else "no"
    try:
        return f"by the owner of {str(json.loads(raw)['public'])[:16]}…"
    except (ValueError, KeyError, TypeError):
        return "by a document that cannot be read"


def faults(out: str, public: str = "") -> list[str]:
    """What is wrong with the store's signature. public: the key, in hexadecimal, that it must be of."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = Files(out).read(KEY)
    if raw is None:
        run = taken_by(out)
        return [f"{f'run {run} took the signature away' if run else 'nobody has signed this store'}: {AGAIN}"]
    try:
        said = json.loads(raw)
        whose, made = str(said.pop("public")), bytes.fromhex(said.pop("signature"))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(whose)).verify(made, canonical(said).encode())
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError) as e:
        return [f"the signature is none ({type(e).__name__}): it was edited"]
    found = [f"it is signed with another key, {whose[:16]}…"] if public and whose != public else []
    now = signed(out)
    if said.get("schema") == FIRST:
        now = {"schema": FIRST, "head": now["head"], "records": now["records"]}
    wrong = sorted(k for k in {**said, **now} if said.get(k) != now.get(k))
    names = ", ".join("plan" if k == "head" else k for k in wrong)
    return found + ([f"{names}: not what was signed"] if wrong else [])


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
