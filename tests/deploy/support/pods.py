"""A kubelet, a deployment controller and a service proxy over Docker: rendered pods, run as they are written.

A pod is one sandbox container, which has the address, and the pod's own containers in its network. Commands, variables,
mounts, users, capabilities, the read-only root and limits come from the rendered pod; probes, preStop, SIGTERM and the grace
period are carried out as the kubelet does. A Service is a TCP proxy that knows the ready pods, late by `LAG` as a real
one is. NetworkPolicies are enforced: between pods by the host's firewall, at Services by the proxy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from support import network
from support.engine import DEBIAN, Engine, Missing, need, run, until

# How late others learn of a change: the kubelet of a container that ended, proxies of a pod that is not ready any more.
LAG = 1.0
PREFIX = "plinth-pods"


def _seconds(text) -> float:
    return float(text)


class Services:
    """All Services of the release, on one address of the host, by port."""

    def __init__(self, address: str, may_call):
        self.address = address
        # Whether the pod at one address may call an endpoint; both are those of the connection.
        self._may_call = may_call
        self._endpoints: dict[int, list[tuple[str, int]]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers = []

    def listen(self, address: str, port: int, key: int):
        """Serves the Service of the port `key` on another address, too; port 0 takes any."""

        async def open_():
            return await asyncio.start_server(lambda r, w: self._serve(key, r, w), address, port)

        server = asyncio.run_coroutine_threadsafe(open_(), self._loop).result(10)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    def set(self, key: int, endpoints: list[tuple[str, int]]):
        self._endpoints[key] = endpoints

    async def _serve(self, key, reader, writer):
        endpoints = self._endpoints.get(key)
        try:
            if not endpoints:
                raise OSError("no endpoint is ready")
            endpoint = random.choice(endpoints)
            if not self._may_call(writer.get_extra_info("peername")[0], *endpoint):
                raise OSError("a NetworkPolicy is against it")
            upstream, back = await asyncio.wait_for(asyncio.open_connection(*endpoint), 5)
        except (OSError, asyncio.TimeoutError):
            # What a client of a real Service sees: the connection is refused.
            writer.transport.abort()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._copy(reader, back), self._copy(upstream, writer))
        # Not aborted: what is still in the buffers is the end of an answer.
        back.close()
        writer.close()

    @staticmethod
    async def _copy(source, target):
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
            target.write_eof()
        except OSError:
            target.transport.abort()

    def close(self):
        async def end():
            for server in self._servers:
                server.close()
            running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@dataclass
class Ended:
    """How a container ended when its pod was deleted."""

    pod: str
    container: str
    exit: int
    seconds: float
    killed: bool


@dataclass
class Pod:
    cluster: Cluster
    name: str
    labels: dict
    spec: dict
    namespace: str = ""
    ip: str = ""
    ready: dict = field(default_factory=dict)
    restarts: int = 0
    terminating: bool = False
    gone: bool = False
    events: list = field(default_factory=list)
    _waiting: dict = field(default_factory=dict)

    def container_name(self, container) -> str:
        return f"{self.cluster.prefix}-{self.name}-{container['name']}"

    @property
    def sandbox(self) -> str:
        return f"{self.cluster.prefix}-{self.name}"

    @property
    def is_ready(self) -> bool:
        return bool(self.ready) and all(self.ready.values()) and not self.terminating

    # -- start

    def start(self):
        docker = self.cluster.engine.docker
        hosts = [word for name in self.cluster.service_names for word in ("--add-host", f"{name}:{self.cluster.services.address}")]
        docker(
            "run", "--detach", "--name", self.sandbox, "--hostname", self.name[:63], "--network", self.cluster.network,
            "--user", "65534", "--cap-drop", "ALL", "--read-only", *hosts, DEBIAN, "sleep", "infinity",
        )  # fmt: skip
        [facts] = self.cluster.engine.inspect(self.sandbox)
        self.ip = facts["NetworkSettings"]["Networks"][self.cluster.network]["IPAddress"]
        self.cluster.firewall.renew()
        self._volumes()
        for container in self.spec.get("initContainers", []):
            done = docker("run", "--rm", *self._options(container), check=False, timeout=60)
            assert done.returncode == 0, f"{self.name}: init container {container['name']}: {done.stdout}{done.stderr}"
        for container in self.spec["containers"]:
            self.ready[container["name"]] = False
            docker("create", "--name", self.container_name(container), *self._options(container))
            self._start_container(container)
        for container in self.spec["containers"]:
            threading.Thread(target=self._watch, args=(container,), daemon=True).start()

    def _volumes(self):
        group = self.spec.get("securityContext", {}).get("fsGroup", 0)
        self.folders = {}
        for volume in self.spec.get("volumes", []):
            folder = self.cluster.folder / self.name / volume["name"]
            if "persistentVolumeClaim" in volume:
                folder = self.cluster.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            self.folders[volume["name"]] = folder
            source = volume.get("secret") or volume.get("configMap")
            if source is None:
                os.chown(folder, 0, group)
                folder.chmod(0o2777)
                continue
            kind = "Secret" if "secret" in volume else "ConfigMap"
            data = self.cluster.data(kind, source.get("secretName") or source["name"])
            items = {i["key"]: i["path"] for i in source.get("items", [])} or {key: key for key in data}
            for key, path in items.items():
                assert key in data, f"{self.name}: {kind} {source} has no {key}: the kubelet would not start this pod"
                (folder / path).write_bytes(data[key])
                # The kubelet gives files of a pod with fsGroup to the group, readable by it.
                os.chown(folder / path, 0, group)
                (folder / path).chmod(source.get("defaultMode", 0o644) | (0o040 if group else 0))

    def _options(self, container):
        context = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        words = ["--no-healthcheck", "--network", f"container:{self.sandbox}", "--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
        words += ["--group-add", str(context["fsGroup"])]
        if context["readOnlyRootFilesystem"]:
            words.append("--read-only")
        if not context["allowPrivilegeEscalation"]:
            words += ["--security-opt", "no-new-privileges"]
        words += [word for name in context["capabilities"]["drop"] for word in ("--cap-drop", name)]
        limits = container["resources"]["limits"]
        words += ["--memory", str(_quantity(limits["memory"])), "--cpus", str(min(_quantity(limits["cpu"]), os.cpu_count()))]
        for variable in container.get("env", []):
            words += ["--env", f"{variable['name']}={self._value(variable)}"]
        for mount in container.get("volumeMounts", []):
            option = ":ro" if mount.get("readOnly") else ""
            words += ["--volume", f"{self.folders[mount['name']]}:{mount['mountPath']}{option}"]
        command, args = container.get("command", []), container.get("args", [])
        if command:
            words += ["--entrypoint", command[0]]
        return [*words, container["image"], *command[1:], *args]

    def _value(self, variable):
        if "value" in variable:
            return variable["value"]
        source = variable["valueFrom"]
        if "fieldRef" in source:
            return {"status.podIP": self.ip, "metadata.name": self.name}[source["fieldRef"]["fieldPath"]]
        reference = source["secretKeyRef"]
        return self.cluster.data("Secret", reference["name"])[reference["key"]].decode()

    # -- probes

    def _probe(self, container, probe) -> bool:
        timeout = _seconds(probe.get("timeoutSeconds", 1))
        if "exec" in probe:
            try:
                return self.cluster.engine.docker("exec", self.container_name(container), *probe["exec"]["command"], check=False, timeout=timeout + 5).returncode == 0
            except subprocess.TimeoutExpired:
                return False
        kind = probe.get("httpGet") or probe["tcpSocket"]
        port = self.port(kind["port"], container)
        try:
            if "tcpSocket" in probe:
                socket.create_connection((self.ip, port), timeout).close()
                return True
            connection = http.client.HTTPConnection(self.ip, port, timeout=timeout)
            with contextlib.closing(connection):
                connection.request("GET", kind["path"], headers={"User-Agent": "kube-probe/1.34"})
                return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False

    def port(self, port, container=None):
        if isinstance(port, int):
            return port
        for one in [container] if container else self.spec["containers"]:
            for known in one.get("ports", []):
                if known["name"] == port:
                    return known["containerPort"]
        raise KeyError(f"{self.name} has no port {port}")

    def _watch(self, container):
        """The kubelet's word on one container, until the pod is deleted."""
        name = container["name"]
        backoff = 0.0
        while not self.terminating:
            due = {}
            failures = {"startup": 0, "readiness": 0, "liveness": 0}
            started = "startupProbe" not in container
            while not self.terminating:
                if not self._running(container):
                    break
                now = time.monotonic()
                kinds = ["startup"] if not started else ["readiness", "liveness"]
                broken = False
                for kind in kinds:
                    probe = container.get(f"{kind}Probe")
                    if probe is None:
                        if kind == "readiness":
                            self._set_ready(name, True)
                        continue
                    if due.setdefault(kind, now + _seconds(probe.get("initialDelaySeconds", 0))) > now:
                        continue
                    due[kind] = now + _seconds(probe.get("periodSeconds", 10))
                    good = self._probe(container, probe)
                    failures[kind] = 0 if good else failures[kind] + 1
                    failed = failures[kind] >= probe.get("failureThreshold", 3)
                    if kind == "startup" and good:
                        started = True
                    elif kind == "readiness" and (good or failed):
                        self._set_ready(name, good)
                    elif kind in ("startup", "liveness") and failed:
                        broken = True
                if broken:
                    self.events.append(f"{name}: a probe failed, the container is stopped")
                    self.cluster.engine.docker("stop", "--time", "30", self.container_name(container), check=False)
                    break
                time.sleep(0.1)
            if self.terminating:
                return
            # The kubelet looks at containers about every second.
            time.sleep(LAG)
            self._set_ready(name, False)
            code = self.cluster.engine.inspect(self.container_name(container))[0]["State"]["ExitCode"]
            self.events.append(f"{name}: ended with {code}, restart {self.restarts + 1}\n{self.log(container, 15)}")
            until_restart = time.monotonic() + backoff
            while time.monotonic() < until_restart and not self.terminating:
                time.sleep(0.1)
            backoff = min(max(10.0, backoff * 2), 300.0) if self.restarts else 1.0
            if self.terminating:
                return
            self.restarts += 1
            self._start_container(container)

    def _start_container(self, container):
        name = self.container_name(container)
        self.cluster.engine.docker("start", name)
        # One waiting client for each container: asking over and over would cost more than the containers do.
        self._waiting[container["name"]] = subprocess.Popen(
            [self.cluster.engine.client, "wait", name], env=self.cluster.engine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _running(self, container) -> bool:
        return self._waiting[container["name"]].poll() is None

    def _set_ready(self, container, ready):
        if self.ready[container] != ready:
            self.ready[container] = ready
            self.cluster.endpoints()

    def log(self, container, lines=40) -> str:
        done = self.cluster.engine.docker("logs", "--tail", str(lines), self.container_name(container), check=False)
        return (done.stdout + done.stderr)[-4000:]

    def health(self) -> str:
        """What it says of itself, for messages."""
        connection = http.client.HTTPConnection(self.ip, 8007, timeout=3)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().read().decode()[:1500]
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()

    # -- end

    def delete(self) -> list[Ended]:
        """As the API's delete: proxies learn it while preStop runs; SIGTERM; SIGKILL after the grace period."""
        self.terminating = True
        threading.Timer(LAG, self.cluster.endpoints).start()
        begun = time.monotonic()
        grace = self.spec.get("terminationGracePeriodSeconds", 30)
        ended = []

        def stop(container):
            hook = container.get("lifecycle", {}).get("preStop")
            if hook:
                time.sleep(hook["sleep"]["seconds"])
            asked = time.monotonic()
            name = self.container_name(container)
            self.cluster.engine.docker("kill", "--signal", "TERM", name, check=False)
            killed = False
            try:
                self._waiting[container["name"]].wait(max(0.1, begun + grace - asked))
            except subprocess.TimeoutExpired:
                killed = True
                self.cluster.engine.docker("kill", name, check=False)
            code = self.cluster.engine.inspect(name)[0]["State"]["ExitCode"]
            ended.append(Ended(self.name, container["name"], code, time.monotonic() - asked, killed))

        threads = [threading.Thread(target=stop, args=(c,)) for c in self.spec["containers"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.remove()
        return ended

    def kill(self):
        """All at once, as the kernel would for want of memory."""
        for container in self.spec["containers"]:
            self.cluster.engine.docker("kill", self.container_name(container))

    def remove(self):
        self.terminating = True
        self.gone = True
        for client in self._waiting.values():
            client.terminate()
            client.wait()
        names = [self.container_name(c) for c in self.spec["containers"]] + [self.sandbox]
        self.cluster.engine.docker("rm", "--force", "--volumes", *names, check=False)
        self.cluster.firewall.renew()


class Firewall:
    """The rendered NetworkPolicies, by the host's iptables (bridged packets pass it: bridge-nf-call-iptables)."""

    def __init__(self, cluster: Cluster, subnet: str):
        self.cluster, self.subnet = cluster, subnet
        self.chain, self.drops = f"PODS-{os.getpid()}", f"PODS-DROP-{os.getpid()}"
        self.policies = [d for d in cluster.documents if d["kind"] == "NetworkPolicy"]
        self.refused: list[tuple] = []
        self._lock = threading.Lock()
        need("iptables", "iptables")
        seen = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
        if not seen.is_file() or seen.read_text().strip() != "1":
            raise Missing("bridged packets do not pass the firewall; set net.bridge.bridge-nf-call-iptables to 1 (module br_netfilter)")
        for chain in (self.chain, self.drops):
            run("iptables", "-w", "-N", chain)
        # The first rule counts attempts to connect; what is left of connections that ended goes without a count.
        run("iptables", "-w", "-A", self.drops, "-p", "tcp", "--syn", "-j", "DROP")
        run("iptables", "-w", "-A", self.drops, "-j", "DROP")
        run("iptables", "-w", "-I", "DOCKER-USER", "-s", subnet, "-d", subnet, "-j", self.chain)

    def place(self, pod: Pod) -> network.Place:
        namespace = pod.namespace or "plinth"
        return network.Place(pod.name, namespace, tuple(pod.labels.items()), (("kubernetes.io/metadata.name", namespace),))

    # Whoever asks from the host itself: an application in a namespace that may call the services.
    CLIENT = network.Place("client", "clients", (), (("kubernetes.io/metadata.name", "clients"), ("plinth/client", "true")))

    def allows(self, source: Pod | None, target: Pod, port: int) -> bool:
        return network.allowed(self.policies, self.place(source) if source else self.CLIENT, self.place(target), port)

    def may_call(self, address: str, ip: str, port: int) -> bool:
        by_address = {p.ip: p for p in self.cluster.pods}
        source, target = by_address.get(address), by_address[ip]
        allowed = self.allows(source, target, port)
        if not allowed:
            self.refused.append((source and source.name, target.name, port))
        return allowed

    def renew(self):
        """After a pod came or went."""
        with self._lock:
            pods = [p for p in self.cluster.pods if p.ip and not p.gone]
            lines = ["*filter", f":{self.chain} - [0:0]", f"-A {self.chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"]
            for source in pods:
                for target in pods:
                    ports = sorted({p["containerPort"] for c in target.spec["containers"] for p in c.get("ports", [])})
                    open_ = [str(port) for port in ports if source is not target and self.allows(source, target, port)]
                    if open_:
                        lines.append(
                            f"-A {self.chain} -s {source.ip} -d {target.ip} -p tcp -m multiport --dports {','.join(open_)} -j RETURN"
                        )
            lines += [f"-A {self.chain} -j {self.drops}", "COMMIT", ""]
            run("iptables-restore", "-w", "--noflush", input="\n".join(lines))

    def dropped(self) -> int:
        """Attempts to connect from pod to pod that no policy lets through, since the start."""
        text = run("iptables", "-w", "-nvxL", self.drops).stdout
        return int(text.splitlines()[2].split()[0])

    def close(self):
        run("iptables", "-w", "-D", "DOCKER-USER", "-s", self.subnet, "-d", self.subnet, "-j", self.chain, check=False)
        for chain in (self.chain, self.drops):
            run("iptables", "-w", "-F", chain, check=False)
        for chain in (self.chain, self.drops):
            run("iptables", "-w", "-X", chain, check=False)


def _quantity(text) -> float:
    """A Kubernetes quantity as a number: bytes, or cores."""
    text = str(text)
    for suffix, factor in {"m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9}.items():
        if text.endswith(suffix):
            number = float(text[: -len(suffix)]) * factor
            return number if suffix == "m" else int(number)
    return float(text)


class Cluster:
    """What a release is made of, running."""

    def __init__(self, engine: Engine, folder: Path, documents: list[dict]):
        self.engine = engine
        self.folder = folder
        self.prefix = f"{PREFIX}-{os.getpid()}"
        self.network = self.prefix
        self.documents = documents
        self.pods: list[Pod] = []
        self._lock = threading.Lock()
        self._count = 0
        engine.docker("network", "create", self.network)
        [facts] = engine.inspect(self.network)
        self.firewall = Firewall(self, facts["IPAM"]["Config"][0]["Subnet"])
        self.services = Services(facts["IPAM"]["Config"][0]["Gateway"], self.firewall.may_call)
        self._service_list = [d for d in documents if d["kind"] == "Service" and d["spec"].get("clusterIP") != "None"]
        self.service_names = [d["metadata"]["name"] for d in self._service_list]
        self._ports = {}
        for service in self._service_list:
            for port in service["spec"]["ports"]:
                # All Services have the proxy's one address, so their ports must differ; status ports are asked on pods.
                if port["name"] == "status":
                    continue
                assert port["port"] not in self._ports, f"two Services with port {port['port']}"
                self._ports[port["port"]] = (service, port)
                self.services.listen(self.services.address, port["port"], port["port"])

    def data(self, kind, name) -> dict[str, bytes]:
        [found] = [d for d in self.documents if d["kind"] == kind and d["metadata"]["name"] == name]
        if kind == "Secret":
            return {key: base64.b64decode(value) for key, value in found["data"].items()}
        return {key: value.encode() for key, value in found["data"].items()}

    def endpoints(self):
        with self._lock:
            for key, (service, port) in self._ports.items():
                selector = service["spec"]["selector"]
                ready = [p for p in self.pods if p.is_ready and selector.items() <= p.labels.items()]
                self.services.set(key, [(p.ip, p.port(port["targetPort"])) for p in ready])

    def of(self, component) -> list[Pod]:
        return [p for p in self.pods if p.labels.get("app.kubernetes.io/component") == component and not p.terminating]

    def create(self, workload: dict) -> Pod:
        """One pod of a Deployment, StatefulSet, or a Pod itself."""
        template = workload if workload["kind"] == "Pod" else workload["spec"]["template"]
        spec = template["spec"]
        with self._lock:
            self._count += 1
            name = f'{workload["metadata"]["name"]}-{self._count}'
        if workload["kind"] == "StatefulSet":
            name = f'{workload["metadata"]["name"]}-0'
            claims = [
                {"name": t["metadata"]["name"], "persistentVolumeClaim": {"claimName": f'{t["metadata"]["name"]}-{name}'}}
                for t in workload["spec"].get("volumeClaimTemplates", [])
            ]
            spec = {**spec, "volumes": spec["volumes"] + claims}
        pod = Pod(self, name, template["metadata"]["labels"], spec, template["metadata"].get("namespace", "") if workload["kind"] == "Pod" else "")
        self.pods.append(pod)
        pod.start()
        return pod

    def wait_ready(self, pods, seconds):
        def all_ready():
            return all(p.is_ready for p in pods)

        def story():
            return "\n".join(
                f"{p.name}: ready {p.ready}, {p.restarts} restarts; {p.health()}\n" + "\n".join(p.events) + "\n" + "\n".join(p.log(c) for c in p.spec["containers"])
                for p in pods
                if not p.is_ready
            )

        try:
            until(all_ready, seconds, "pods are ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{story()}") from None

    def replicas(self, deployment) -> int:
        """What the autoscaler starts from."""
        name = deployment["metadata"]["name"]
        for scaler in self.documents:
            if scaler["kind"] == "HorizontalPodAutoscaler" and scaler["spec"]["scaleTargetRef"]["name"] == name:
                return scaler["spec"]["minReplicas"]
        return deployment["spec"].get("replicas", 1)

    def roll(self, deployment, seconds=120) -> list[Ended]:
        """The rolling update to a new template, as maxUnavailable and maxSurge say."""
        strategy = deployment["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
        component = deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        ended = []
        for old in list(self.of(component)):
            new = self.create(deployment)
            self.wait_ready([new], seconds)
            ended += old.delete()
        return ended

    def close(self):
        for pod in self.pods:
            if not pod.gone:
                pod.remove()
        self.services.close()
        self.firewall.close()
        self.engine.docker("network", "rm", self.network, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
