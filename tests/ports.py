"""What listens off loopback, and whom it answers: a port scan from the inside."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

import psutil


def listening(pids: Iterable[int]) -> dict[int, str]:
    """{port: address} of what these processes listen on, off loopback."""
    found = {}
    for pid in pids:
        for c in psutil.Process(pid).net_connections("tcp"):
            if c.status == psutil.CONN_LISTEN and not c.laddr.ip.startswith("127.") and c.laddr.ip != "::1":
                found[c.laddr.port] = c.laddr.ip
    return found


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    process = psutil.Process(pid)
    return [pid, *(p.pid for p in process.children(recursive=True))]


def answers(host: str, port: int, keys: Path | None, words: bytes = b"GET / HTTP/1.0\r\n\r\n") -> bool:
    """Whether the port says anything: in plain text, or over TLS with the certificates of a folder."""
    try:
        with socket.create_connection((host, port), timeout=5) as raw, _wrapped(raw, keys) as s:
            s.settimeout(5)
            if keys is None:
                s.sendall(words)
            return bool(s.recv(1))  # dask speaks first, once it trusts
    except (OSError, ssl.SSLError):
        return False


def _wrapped(raw: socket.socket, keys: Path | None) -> socket.socket:
    if keys is None:
        return raw
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a foreigner does not care whom it speaks to
    return context.wrap_socket(raw)
