"""Loopback ports for servers that cannot bind port 0 and tell."""

import fcntl
import pathlib
import random
import socket
import tempfile

# The claims of the Rust tests (crates/testbed/src/port.rs): a locked file each, so that no two tests get the same port.
CLAIMS = pathlib.Path(tempfile.gettempdir()) / "plinth-test-ports"
_held = []


def free_port() -> int:
    """A port where nothing listens, kept from other tests until this process ends."""
    CLAIMS.mkdir(parents=True, exist_ok=True)
    ports = list(_range())
    random.shuffle(ports)
    for port in ports:
        claim = open(CLAIMS / str(port), "w")  # noqa: SIM115 - held on purpose
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _held.append(claim)
        return port
    raise RuntimeError("no free port")


def _range() -> range:
    """Not the ports that the kernel gives to outgoing connections and to listeners on port 0."""
    first, last = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if first >= 12_000:
        return range(max(min(first, 32_000) - 10_000, 10_000), min(first, 32_000))
    return range(last + 1, 65_535) if last <= 63_000 else range(20_100, 32_000)
