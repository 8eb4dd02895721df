"""infrastructure/nginx with a real nginx: TLS, HTTP/2, WebSocket, gRPC, the client's address, and upstreams that follow the registry."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
from support.engine import ROOT, need, run, until
from support.load import Load
from support.ports import free_port

SOURCE = ROOT / "infrastructure/nginx"


class Gateway(http.server.ThreadingHTTPServer):
    """Stands where a gateway is: answers with what it saw, echoes over an upgraded connection, and tells a gRPC request (HTTP/2 with
    prior knowledge) from HTTP/1.1."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = name
        self.http2 = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_):
        pass

    def handle(self):
        # A client may go away before it has read its answer.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def parse_request(self):
        # The preface of HTTP/2: enough to see that it was spoken.
        if self.raw_requestline.startswith(b"PRI * HTTP/2.0"):
            self.server.http2 += 1
            self.close_connection = True
            return False
        return super().parse_request()

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket" and self.headers.get("Connection", "").lower() == "upgrade":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.flush()
            while piece := self.connection.recv(1024):
                self.connection.sendall(b"echo:" + piece)
            self.close_connection = True
            return
        body = json.dumps({"name": self.server.name, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()


class Registry(http.server.ThreadingHTTPServer):
    """Answers as the registry-service does: GET /api/v1/services/discover/gateway with index and wait."""

    daemon_threads = True
    token = "a-token-of-services-read"

    def __init__(self, instances):
        super().__init__(("127.0.0.1", 0), RegistryHandler)
        self.changed = threading.Condition()
        self.index, self.instances, self.broken = 1, instances, None
        # How often it was asked; the index of the last answer, and of the last one after which it was asked again.
        self.asked = self.given = self.seen = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def set(self, instances=None, broken=None):
        with self.changed:
            self.index += 1
            self.instances, self.broken = instances if instances is not None else self.instances, broken
            self.changed.notify_all()


class RegistryHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        # nginx, or rather its script, may have been stopped while it waited.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self):
        server = self.server
        query = dict(part.split("=") for part in self.path.partition("?")[2].split("&"))
        if self.headers["Authorization"] != f"Bearer {server.token}" or query.get("healthy_only") != "true":
            self.send_error(401)
            return
        with server.changed:
            server.asked += 1
            server.seen = server.given
            if "index" in query:
                server.changed.wait_for(lambda: server.index > int(query["index"]), float(query["wait"].rstrip("s")))
            index, broken = server.index, server.broken
            body = json.dumps({"service_name": "gateway", "services": server.instances}).encode() if broken is None else broken
        self.send_response(200)
        self.send_header("X-Plinth-Index", str(index))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        server.given = index


def instance(gateway: Gateway, **more) -> dict:
    return {"service_id": gateway.name, "address": "127.0.0.1", "port": gateway.port, "status": "healthy", "metadata": {}, "tags": [],
            "weight": 1, **more}


class Front:
    """nginx with the shipped files; only folders and ports are put in the places of the container's."""

    def __init__(self, folder: pathlib.Path, gateways: list[Gateway]):
        self.folder, self.gateways = folder, gateways
        self.registry = Registry([instance(gateway) for gateway in gateways])
        self.ports = {port: free_port() for port in (8080, 8443, 8444, 8081)}
        (folder / "run").mkdir()
        (folder / "secrets").mkdir()
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "secrets/front.key", "-out", folder / "secrets/front.pem")
        (folder / "secrets/token").write_text(self.registry.token)
        self._write("nginx.conf")
        self._write("locations.conf")
        (folder / "trusted-proxies.conf").write_text((SOURCE / "trusted-proxies.conf").read_text() + "set_real_ip_from 127.0.0.1;\n")
        nginx = folder / "nginx"
        nginx.write_text(f'#!/bin/sh\nexec {need("nginx", "nginx-light")} -c {folder}/nginx.conf "$@"\n')
        nginx.chmod(0o755)
        self.env = {
            **os.environ,
            "PLINTH_REGISTRY_URL": f"http://127.0.0.1:{self.registry.server_address[1]}",
            "PLINTH_REGISTRY_TOKEN_FILE": str(folder / "secrets/token"),
            "PLINTH_UPSTREAMS_DIR": str(folder / "run"),
            "PLINTH_UPSTREAMS_WAIT": "2",
            "PLINTH_UPSTREAMS_FIRST": "3",
            "PLINTH_NGINX": str(nginx),
            "PLINTH_NGINX_CONF": str(folder / "nginx.conf"),
            "PLINTH_HTTPS_PORT": str(self.ports[8443]),
        }
        self.log = (folder / "log").open("w+")
        # A session of its own: the loop goes on in the background, and ends with its group.
        self.start = subprocess.Popen(["sh", SOURCE / "start.sh"], env=self.env, stdout=self.log, stderr=self.log, start_new_session=True)
        assert self.start.wait(20) == 0, self.text()
        self.nginx = subprocess.Popen([nginx, "-g", "daemon off;"], env=self.env, stdout=self.log, stderr=self.log)
        until(lambda: self.ask("/")[0] == 200, 10, "nginx answers")

    def _write(self, name: str):
        text = (SOURCE / name).read_text()
        places = {
            "/run/nginx/": f"{self.folder}/run/", "/run/secrets/": f"{self.folder}/secrets/", "/etc/nginx/plinth/": f"{self.folder}/",
            "/tmp/nginx-": f"{self.folder}/tmp-", "/dev/stdout": f"{self.folder}/access.log", "/dev/stderr": f"{self.folder}/error.log",
        }
        if name == "nginx.conf":
            assert all(place in text for place in places), "nginx.conf: a folder is not there any more"
            for port, free in self.ports.items():
                assert f"{port}" in text
                text = text.replace(f"listen {port}", f"listen 127.0.0.1:{free}").replace(f":{port}", f":{free}")
        for place, ours in places.items():
            text = text.replace(place, ours)
        (self.folder / name).write_text(text)

    def text(self) -> str:
        self.log.flush()
        return (self.folder / "log").read_text()

    def tls(self, *alpn) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "secrets/front.pem")
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def ask(self, path, headers=None, method="GET"):
        connection = http.client.HTTPSConnection("localhost", self.ports[8443], timeout=5, context=self.tls())
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else text
        finally:
            connection.close()

    def upstreams(self) -> list[str]:
        lines = (self.folder / "run/upstream-gateway.conf").read_text().split("}")[0].splitlines()
        return [line.split()[1] for line in lines if line.strip().startswith("server ")]

    def stop(self):
        os.killpg(self.start.pid, signal.SIGTERM)
        self.nginx.send_signal(signal.SIGQUIT)
        try:
            self.nginx.wait(5)
        except subprocess.TimeoutExpired:
            self.nginx.terminate()
            self.nginx.wait(5)
        self.registry.shutdown()
        self.log.close()


@pytest.fixture(scope="module")
def gateways():
    return [Gateway(name) for name in ("one", "two", "three")]


@pytest.fixture
def front(tmp_path, gateways):
    need("curl", "curl")
    front = Front(tmp_path, gateways[:2])
    yield front
    front.stop()


def test_tls_is_modern_and_http2_is_spoken(front):
    with socket.create_connection(("localhost", front.ports[8443]), timeout=5) as plain:
        with front.tls("h2", "http/1.1").wrap_socket(plain, server_hostname="localhost") as tls:
            assert tls.selected_alpn_protocol() == "h2" and tls.version() == "TLSv1.3"
    old = run("curl", "-sS", "--tls-max", "1.1", "--tlsv1.0", "--ciphers", "ALL:@SECLEVEL=0", "--cacert", front.folder / "secrets/front.pem",
              f"https://localhost:{front.ports[8443]}/", check=False)
    assert old.returncode == 35 and "protocol version" in old.stderr, old.stderr
    done = run("curl", "-sS", "--http2", "--cacert", front.folder / "secrets/front.pem", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
               f"https://localhost:{front.ports[8443]}/")
    assert done.stdout == "2 200"
    moved = http.client.HTTPConnection("localhost", front.ports[8080], timeout=5)
    moved.request("POST", "/a?b=c")
    answer = moved.getresponse()
    assert (answer.status, answer.headers["Location"]) == (308, f"https://localhost:{front.ports[8443]}/a?b=c")


def test_a_websocket_passes_both_ways(front):
    with socket.create_connection(("localhost", front.ports[8443]), timeout=5) as plain:
        with front.tls().wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            head = b""
            while b"\r\n\r\n" not in head:
                head += tls.recv(1024)
            assert head.startswith(b"HTTP/1.1 101")
            for word in (b"one", b"two"):
                tls.sendall(word)
                assert tls.recv(1024) == b"echo:" + word


def test_grpc_goes_to_the_gateway_over_http2(front, gateways):
    before = sum(gateway.http2 for gateway in gateways)
    run("curl", "-sS", "--http2", "--cacert", front.folder / "secrets/front.pem", "-o", "/dev/null", "-H", "Content-Type: application/grpc",
        "-H", "TE: trailers", "--data-binary", "x", f"https://localhost:{front.ports[8443]}/a.Service/Method")
    assert sum(gateway.http2 for gateway in gateways) > before
    # And what is no gRPC does not.
    between = sum(gateway.http2 for gateway in gateways)
    assert front.ask("/", {"Content-Type": "application/json"})[0] == 200
    assert sum(gateway.http2 for gateway in gateways) == between


def test_the_client_is_who_a_trusted_proxy_says_and_nobody_else(front):
    # 127.0.0.1 is trusted here, as a load balancer in front would be; the list is read from its end.
    status, seen = front.ask("/", {"X-Forwarded-For": "6.6.6.6, 203.0.113.7"})
    assert status == 200
    assert (seen["headers"]["x-forwarded-for"], seen["headers"]["x-real-ip"]) == ("203.0.113.7", "203.0.113.7")
    assert (seen["headers"]["x-forwarded-proto"], seen["headers"]["x-forwarded-port"]) == ("https", str(front.ports[8443]))
    # The PROXY protocol, on its own port.
    with socket.create_connection(("localhost", front.ports[8444]), timeout=5) as plain:
        plain.sendall(b"PROXY TCP4 198.51.100.9 127.0.0.1 5000 443\r\n")
        with front.tls().wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n")
            text = b""
            while piece := tls.recv(4096):
                text += piece
    assert json.loads(text.partition(b"\r\n\r\n")[2])["headers"]["x-forwarded-for"] == "198.51.100.9"
    # As shipped nobody is trusted.
    shutil.copy(SOURCE / "trusted-proxies.conf", front.folder / "trusted-proxies.conf")
    run(front.folder / "nginx", "-s", "reload")
    until(lambda: front.ask("/", {"X-Forwarded-For": "6.6.6.6"})[1]["headers"]["x-forwarded-for"] == "127.0.0.1", 10, "the reload")
    line = json.loads((front.folder / "access.log").read_text().splitlines()[-1])
    assert line["service.name"] == "nginx" and line["http.response.status_code"] == 200


def test_upstreams_follow_the_registry_without_a_failed_request(front, gateways):
    one, two, three = gateways
    names = lambda: {front.ask("/")[1]["name"] for _ in range(12)}  # noqa: E731
    with Load("localhost", front.ports[8443], "/", tls=front.tls(), clients=6, per_second=120) as load:
        for wanted in ([one, two, three], [three], [one, two], [one]):
            front.registry.set([instance(gateway) for gateway in wanted])
            addresses = {f"127.0.0.1:{gateway.port}" for gateway in wanted}
            until(lambda addresses=addresses: set(front.upstreams()) == addresses, 10, "the upstream file")
            until(lambda wanted=wanted: names() == {gateway.name for gateway in wanted}, 10, "nginx asks the new ones only")
    print(load.verdict("four changes of the upstream"))


def test_a_dead_gateway_costs_no_request(front, gateways):
    # Listed by the registry, but nobody is there: the moment before the health-aggregator has noticed.
    gone = instance(gateways[0], service_id="gone", port=free_port())
    front.registry.set([instance(gateways[0]), instance(gateways[1]), gone])
    until(lambda: f"127.0.0.1:{gone['port']}" in front.upstreams(), 10, "the upstream file")
    with Load("localhost", front.ports[8443], "/", tls=front.tls(), clients=4, per_second=80) as load:
        until(lambda: load.sent > 150, 30, "load")
    load.verdict("one dead gateway of three")


def test_the_last_upstream_stays_whatever_the_registry_says(front, gateways):
    before = front.upstreams()
    file = front.folder / "run/upstream-gateway.conf"
    held = file.open()
    was = file.read_text()
    bad = [
        json.dumps({"services": []}).encode(),
        b"",
        b"{\"services\":[{",
        b"<html>502</html>",
        json.dumps({"services": [instance(gateways[2], address="127.0.0.1; } http { ")]}).encode(),
        json.dumps({"services": [instance(gateways[2], port=70000)]}).encode(),
        # Looks like an address, but is somebody's metadata.
        json.dumps({"services": [], "metadata": {"services": [instance(gateways[2])]}}).encode(),
        # Passes the reader, and nginx refuses it.
        json.dumps({"services": [instance(gateways[2], address="no-such-host.invalid")]}).encode(),
    ]
    for answer in bad:
        front.registry.set(broken=answer)
        until(lambda: front.registry.seen == front.registry.index, 20, "the loop has dealt with the answer and asks again")
        assert front.upstreams() == before and front.ask("/")[0] == 200
    text = front.text()
    assert "no healthy instance" in text and "no address" in text and "nginx refuses" in text
    assert front.registry.token not in text
    # And it goes on as soon as there is a good one.
    front.registry.set([instance(gateways[2])])
    until(lambda: front.upstreams() == [f"127.0.0.1:{gateways[2].port}"], 10, "the upstream file")
    assert held.read() == was, "replaced by a rename: whoever had it open still reads the old one"
    held.close()
    # Nothing is reloaded when nothing changed.
    until(lambda: f"upstream gateway: 127.0.0.1 {gateways[2].port} 1" in front.text(), 10, "the change is logged")
    lines = front.text().count("upstream gateway:")
    front.registry.set([instance(gateways[2])])
    until(lambda: front.registry.seen == front.registry.index, 10, "the loop asks again")
    assert front.text().count("upstream gateway:") == lines


def test_it_starts_without_the_registry_and_says_so(tmp_path):
    env = {**os.environ, "PLINTH_REGISTRY_URL": f"http://127.0.0.1:{free_port()}", "PLINTH_UPSTREAMS_DIR": str(tmp_path),
           "PLINTH_UPSTREAMS_FIRST": "2"}
    begun = time.monotonic()
    done = run("sh", SOURCE / "upstreams.sh", "gateway", "first", env=env)
    assert time.monotonic() - begun < 10 and "answers 502" in done.stderr
    assert "down;" in (tmp_path / "upstream-gateway.conf").read_text()
    assert run("sh", SOURCE / "upstreams.sh", "../x", "first", env=env, check=False).returncode == 64
