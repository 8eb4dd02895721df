"""python-consul and python-consul2, whose packages carry no tests of their own, against CONSUL_HTTP_ADDR.

PYTHONPATH says which of the two is imported. Patroni and many others use these.
"""

import threading
import time

import consul

# Both take the address from CONSUL_HTTP_ADDR by themselves.
c = consul.Consul()


def until(what, condition):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not in time: {what}")


def refused(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} was not refused")


def kv():
    index, none = c.kv.get("py/none")
    assert none is None and int(index) >= 1
    assert c.kv.put("py/a", "text") is True
    assert c.kv.put("py/b", b"\x00\xff", flags=2**64 - 1) is True
    _, entry = c.kv.get("py/b")
    assert entry["Value"] == b"\x00\xff" and entry["Flags"] == 2**64 - 1
    assert c.kv.put("py/cas", "1", cas=0) is True
    assert c.kv.put("py/cas", "2", cas=0) is False
    _, entry = c.kv.get("py/cas")
    assert c.kv.put("py/cas", "2", cas=entry["ModifyIndex"]) is True
    assert c.kv.delete("py/cas", cas=entry["ModifyIndex"]) is False
    _, keys = c.kv.get("py/", keys=True)
    assert keys == ["py/a", "py/b", "py/cas"], keys
    c.kv.put("py/d/e", "")
    _, keys = c.kv.get("py/", keys=True, separator="/")
    assert keys == ["py/a", "py/b", "py/cas", "py/d/"], keys
    _, entries = c.kv.get("py/", recurse=True)
    assert [entry["Key"] for entry in entries] == ["py/a", "py/b", "py/cas", "py/d/e"]
    assert entries[3]["Value"] is None
    c.kv.put("py/ünïcode key", "ü")
    _, entry = c.kv.get("py/ünïcode key")
    assert entry["Key"] == "py/ünïcode key" and entry["Value"].decode() == "ü"
    assert c.kv.delete("py/", recurse=True) is True
    assert c.kv.get("py/", recurse=True)[1] is None
    refused(consul.ConsulException, c.kv.put, "py/x", "", acquire="nonsense")


def blocking():
    c.kv.put("py/poll", "1")
    index, _ = c.kv.get("py/poll")
    seen = []
    poll = threading.Thread(target=lambda: seen.append(consul.Consul().kv.get("py/poll", index=index, wait="10s")))
    poll.start()
    c.kv.put("py/other", "x")
    assert not seen
    c.kv.put("py/poll", "2")
    poll.join(5)
    assert seen[0][1]["Value"] == b"2" and int(seen[0][0]) > int(index)
    begin = time.monotonic()
    c.kv.get("py/poll", index=seen[0][0], wait="500ms")
    assert 0.45 < time.monotonic() - begin < 5
    for consistency in ("consistent", "stale"):
        c.catalog.nodes(consistency=consistency)


def agent():
    checks = consul.Check
    assert c.agent.service.register(
        "py", service_id="py-1", address="127.0.0.1", port=80, tags=["a"], check=checks.ttl("30s")
    )
    assert c.agent.services()["py-1"]["Tags"] == ["a"]
    assert c.agent.checks()["service:py-1"]["Status"] == "critical"
    c.agent.check.ttl_pass("service:py-1", "fine")
    assert c.agent.checks()["service:py-1"]["Output"] == "fine"
    c.agent.check.ttl_warn("service:py-1")
    c.agent.check.ttl_fail("service:py-1")
    assert c.agent.checks()["service:py-1"]["Status"] == "critical"
    refused(consul.ConsulException, c.agent.check.ttl_pass, "unknown")
    assert c.agent.check.register("http", checks.http("http://127.0.0.1:1/", "10s", timeout="1s", deregister="90m"))
    assert c.agent.check.register("tcp", checks.tcp("127.0.0.1", 1, "10s"))
    assert c.agent.check.deregister("http") and c.agent.check.deregister("tcp")
    assert c.agent.service.maintenance("py-1", "true", "why")
    assert c.agent.checks()["_service_maintenance:py-1"]["Notes"] == "why"
    assert c.agent.service.maintenance("py-1", "false")
    assert c.agent.maintenance("true") and c.agent.maintenance("false")
    assert len(c.agent.members()) == 1
    assert c.agent.self()["Config"]["Datacenter"] == "dc1"


def health_and_catalog():
    c.agent.check.ttl_pass("service:py-1")
    # Consul's agent tells its server a moment later.
    entries = until("it passes", lambda: c.health.service("py", passing=True, tag="a")[1])
    assert [entry["Service"]["ID"] for entry in entries] == ["py-1"]
    index, _ = c.health.service("py", passing=True)
    woken = []
    poll = threading.Thread(target=lambda: woken.append(consul.Consul().health.service("py", passing=True, index=index)))
    poll.start()
    c.agent.check.ttl_fail("service:py-1")
    poll.join(5)
    assert woken[0][1] == [], woken
    assert any(check["CheckID"] == "service:py-1" for check in c.health.state("critical")[1])
    assert c.health.checks("py")[1][0]["ServiceName"] == "py"
    node = c.agent.self()["Config"]["NodeName"]
    assert any(check["CheckID"] == "serfHealth" for check in c.health.node(node)[1])
    assert c.catalog.datacenters() == ["dc1"]
    assert c.catalog.services()[1]["py"] == ["a"]
    assert c.catalog.service("py")[1][0]["ServicePort"] == 80
    assert "py-1" in c.catalog.node(node)[1]["Services"]
    assert c.catalog.register("ext", "10.0.0.1", service={"Service": "far", "Tags": ["t"], "Port": 5}) is True
    assert c.catalog.service("far", tag="t")[1][0]["Node"] == "ext"
    assert c.health.service("far", passing=True)[1][0]["Checks"] == []
    assert len(c.catalog.nodes(near=node)[1]) == 2
    assert c.catalog.deregister("ext") is True
    refused(consul.ConsulException, c.catalog.nodes, dc="elsewhere")
    assert c.agent.service.deregister("py-1")
    until("it is gone", lambda: c.catalog.service("py")[1] == [])


def sessions():
    session = c.session.create("mine", ttl=15, lock_delay=0, behavior="delete")
    assert c.session.info(session)[1]["TTL"] == "15s"
    assert c.session.renew(session)["ID"] == session
    other = c.session.create(checks=[])
    assert {session, other} <= {entry["ID"] for entry in c.session.list()[1]}
    assert c.kv.put("py/lock", "me", acquire=session) is True
    assert c.kv.put("py/lock", "you", acquire=other) is False
    assert c.kv.get("py/lock")[1]["Session"] == session
    assert c.session.destroy(session) is True
    assert c.kv.get("py/lock")[1] is None, "its keys go with it"
    assert c.kv.put("py/lock", "you", acquire=other) is True
    assert c.kv.put("py/lock", "", release=other) is True
    c.session.destroy(other)
    refused(consul.NotFound, c.session.renew, session)
    refused(consul.ConsulException, c.session.create, ttl=15, node="nobody")


def transactions_and_events():
    results = c.txn.put([{"KV": {"Verb": "set", "Key": "py/t", "Value": "dg=="}}])["Results"]
    assert results[0]["KV"]["Key"] == "py/t"
    refused(consul.ConsulException, c.txn.put, [{"KV": {"Verb": "cas", "Key": "py/t", "Value": "dg==", "Index": 1}}])
    fired = c.event.fire("py-event", "body")
    event = until("the event", lambda: [e for e in c.event.list("py-event")[1] if e["ID"] == fired["ID"]])[0]
    assert event["Payload"] == b"body" or event["Payload"] == "Ym9keQ=="
    assert c.status.leader() in c.status.peers()


def queries():
    c.agent.service.register("pq", service_id="pq-1")
    query = c.query.create("pq", "py-query", onlypassing=True, ttl="10s")["ID"]
    assert c.query.get(query)[0]["Name"] == "py-query"
    found = until("it is found", lambda: c.query.execute("py-query")["Nodes"])
    assert [entry["Service"]["ID"] for entry in found] == ["pq-1"]
    assert c.query.delete(query) is True
    c.agent.service.deregister("pq-1")


for part in (kv, blocking, agent, health_and_catalog, sessions, transactions_and_events, queries):
    part()
    print(part.__name__, "ok", flush=True)
