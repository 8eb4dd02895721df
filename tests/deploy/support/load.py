"""A steady stream of requests that counts what fails."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter


class Load:
    """GETs at a steady rate, as clients send them: half keep their connection, half take a new one for each request.

    A request on a kept connection that is closed before the first byte of an answer is sent once more on a new one, as every
    HTTP client does (RFC 9110, 9.2.2); those are counted apart. Anything but 200 is a failure.
    """

    def __init__(self, host, port, path, headers=None, tls: ssl.SSLContext | None = None, clients=4, per_second=40):
        self.host, self.port, self.path, self.headers, self.tls = host, port, path, headers or {}, tls
        self.pause = clients / per_second
        self.answers = Counter()
        self.resent = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n % 2 == 0,), daemon=True) for n in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def sent(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    def _connect(self):
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, timeout=15, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=15)

    def _ask(self, connection) -> int:
        connection.request("GET", self.path, headers=self.headers)
        answer = connection.getresponse()
        answer.read()
        if answer.will_close:
            connection.close()
        return answer.status

    def _client(self, keeps: bool):
        connection = self._connect()
        while not self._stop.is_set():
            begun = time.monotonic()
            used = connection.sock is not None
            status, error = None, None
            try:
                status = self._ask(connection)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError) as closed:
                connection.close()
                error = closed
                if used:
                    with self._lock:
                        self.resent += 1
                    try:
                        status, error = self._ask(connection), None
                    except (OSError, http.client.HTTPException) as again:
                        connection.close()
                        error = again
            except (OSError, http.client.HTTPException) as other:
                connection.close()
                error = other
            took = time.monotonic() - begun
            with self._lock:
                self.slowest = max(self.slowest, took)
                if error is not None:
                    self.failures.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")
                elif status != 200:
                    self.failures.append(f"{time.strftime('%X')} status {status} after {took:.2f} s")
                else:
                    self.answers[status] += 1
            if not keeps:
                connection.close()
            self._stop.wait(max(0.0, self.pause - took))
        connection.close()

    def verdict(self, what: str) -> str:
        """Fails when a request did; else one line for the report."""
        assert not self.failures, f"{what}: {len(self.failures)} of {self.sent} requests failed: {self.failures[:10]}"
        assert self.sent > 0, f"{what}: no request was sent"
        return f"{what}: {self.sent} requests, 0 failed, {self.resent} sent again, slowest {self.slowest * 1000:.0f} ms"
