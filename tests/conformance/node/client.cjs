// The npm package `consul` against the server of CONSUL_HTTP_ADDR; exits 0 when everything was as expected.
// CONSUL_PACKAGE names the folder in which it is installed.
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
const { createRequire } = require("node:module");

const folder = process.env.CONSUL_PACKAGE;
const Consul = createRequire(path.join(folder, "/"))("consul");
const [host, port] = process.env.CONSUL_HTTP_ADDR.split(":");
const consul = new Consul({ host, port });

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, condition) {
  const end = Date.now() + 10_000;
  while (Date.now() < end) {
    const value = await condition();
    if (value) return value;
    await pause(20);
  }
  assert.fail(`not in time: ${what}`);
}

const refused = (call, status, words) =>
  assert.rejects(call, (error) => {
    assert.equal(error.statusCode ?? error.response?.statusCode, status, String(error));
    if (words) assert.match(String(error), words);
    return true;
  });

const steps = {
  async kv() {
    assert.equal(await consul.kv.set("n/hello", "world"), true);
    const item = await consul.kv.get("n/hello");
    assert.equal(item.Value, "world");
    assert.equal(item.Flags, 0);
    assert.equal(await consul.kv.get("n/none"), undefined);
    assert.equal(await consul.kv.set({ key: "n/flags", value: "x", flags: "18446744073709551615" }), true);
    const raw = await consul.kv.get({ key: "n/flags", raw: true });
    assert.equal(raw.toString(), "x");
    await consul.kv.set("n/bytes", Buffer.from([0, 1, 255, 254]));
    const bytes = await consul.kv.get({ key: "n/bytes", buffer: true });
    assert.deepEqual([...bytes.Value], [0, 1, 255, 254]);
    assert.equal(await consul.kv.set({ key: "n/cas", value: "1", cas: "0" }), true);
    // This client makes `undefined` of `false`.
    assert.ok(!(await consul.kv.set({ key: "n/cas", value: "2", cas: "0" })));
    const { ModifyIndex } = await consul.kv.get("n/cas");
    assert.equal(await consul.kv.set({ key: "n/cas", value: "2", cas: ModifyIndex }), true);
    await consul.kv.del({ key: "n/cas", cas: ModifyIndex });
    assert.equal((await consul.kv.get("n/cas")).Value, "2", "a stale delete does nothing");
    assert.deepEqual(await consul.kv.keys("n/"), ["n/bytes", "n/cas", "n/flags", "n/hello"]);
    await consul.kv.set("n/deep/er", "");
    assert.deepEqual(await consul.kv.keys({ key: "n/", separator: "/" }), [
      "n/bytes", "n/cas", "n/deep/", "n/flags", "n/hello",
    ]);
    const all = await consul.kv.get({ key: "n/", recurse: true });
    assert.deepEqual(all.map((entry) => entry.Key), ["n/bytes", "n/cas", "n/deep/er", "n/flags", "n/hello"]);
    await consul.kv.del({ key: "n/", recurse: true });
    await refused(() => consul.kv.keys("n/"), 404);
    await refused(() => consul.kv.set({ key: "n/x", value: "", acquire: "nonsense" }), 500, /36 characters/);
  },

  async agent() {
    await consul.agent.service.register({
      name: "node-svc", id: "node-1", tags: ["t1", "t2"], port: 8080, address: "127.0.0.1", meta: { a: "b" },
      check: { name: "node ttl", ttl: "30s", notes: "n", status: "passing" },
    });
    const services = await consul.agent.service.list();
    assert.equal(services["node-1"].Service, "node-svc");
    assert.deepEqual(services["node-1"].Tags, ["t1", "t2"]);
    assert.equal(services["node-1"].Meta.a, "b");
    const checks = await consul.agent.checks();
    assert.equal(checks["service:node-1"].Status, "passing");
    await consul.agent.check.fail("service:node-1");
    assert.equal((await consul.agent.check.list())["service:node-1"].Status, "critical");
    await consul.agent.check.warn({ id: "service:node-1", note: "hm" });
    assert.equal((await consul.agent.check.list())["service:node-1"].Output, "hm");
    await consul.agent.check.pass("service:node-1");
    await consul.agent.check.register({ name: "alone", ttl: "15s", notes: "x" });
    assert.equal((await consul.agent.check.list()).alone.Status, "critical");
    await consul.agent.check.deregister("alone");
    await consul.agent.service.maintenance({ id: "node-1", enable: true, reason: "because" });
    assert.equal((await consul.agent.check.list())["_service_maintenance:node-1"].Notes, "because");
    await consul.agent.service.maintenance({ id: "node-1", enable: false });
    await consul.agent.maintenance(true);
    assert.ok((await consul.agent.check.list())._node_maintenance);
    await consul.agent.maintenance(false);
    const members = await consul.agent.members();
    assert.equal(members.length, 1);
    const self = await consul.agent.self();
    assert.equal(self.Config.NodeName, members[0].Name);
    await consul.agent.reload();
    await consul.agent.service.register({ name: "brief", check: { http: "http://127.0.0.1:1/", interval: "1h" } });
    await consul.agent.service.deregister("brief");
    assert.equal((await consul.agent.service.list()).brief, undefined);
    await refused(() => consul.agent.service.register({ name: "bad", check: { ttl: "x" } }), 400);
  },

  async catalog() {
    assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
    const nodes = await consul.catalog.node.list();
    assert.equal(nodes.length, 1);
    assert.deepEqual((await consul.catalog.service.list())["node-svc"].sort(), ["t1", "t2"]);
    const found = await consul.catalog.service.nodes("node-svc");
    assert.equal(found[0].ServiceID, "node-1");
    assert.equal(found[0].ServicePort, 8080);
    assert.deepEqual(await consul.catalog.service.nodes({ service: "node-svc", tag: "t9" }), []);
    const services = await consul.catalog.node.services(nodes[0].Node);
    assert.ok(services.Services["node-1"]);
    assert.equal(await consul.catalog.node.services("nobody"), undefined);
  },

  async health() {
    const [{ Node }] = await consul.catalog.node.list();
    assert.ok((await consul.health.node(Node)).some((check) => check.CheckID === "serfHealth"));
    assert.equal((await consul.health.checks("node-svc"))[0].CheckID, "service:node-1");
    const [entry] = await until("it passes", async () => {
      const found = await consul.health.service({ service: "node-svc", passing: true });
      return found.length > 0 && found;
    });
    assert.equal(entry.Service.ID, "node-1");
    assert.ok(entry.Node.Address);
    assert.ok((await consul.health.state("passing")).length >= 2);
    await consul.agent.check.fail("service:node-1");
    // Consul's agent tells its server a moment later.
    await until("none passes", async () => (await consul.health.service({ service: "node-svc", passing: true })).length === 0);
    await consul.agent.check.pass("service:node-1");
    assert.equal((await consul.health.service({ service: "node-svc", tag: "t2" })).length, 1);
  },

  async session_and_lock() {
    const { ID } = await consul.session.create({ name: "n", ttl: "15s", lockdelay: "0s", behavior: "release" });
    const info = await consul.session.info(ID);
    assert.equal(info.Name, "n");
    assert.equal(info.TTL, "15s");
    assert.equal((await consul.session.renew(ID))[0].ID, ID);
    const other = (await consul.session.create()).ID;
    assert.ok((await consul.session.list()).length >= 2);
    assert.ok((await consul.session.node(info.Node)).some((session) => session.ID === ID));
    assert.equal(await consul.kv.set({ key: "n/lock", value: "me", acquire: ID }), true);
    assert.ok(!(await consul.kv.set({ key: "n/lock", value: "you", acquire: other })));
    const held = await consul.kv.get("n/lock");
    assert.equal(held.Session, ID);
    assert.equal(held.LockIndex, 1);
    // The other waits for the lock as clients do: a blocking read, then another try.
    const freed = consul.kv.get({ key: "n/lock", index: held.ModifyIndex, wait: "10s" });
    await consul.session.destroy(ID);
    assert.equal((await freed).Session, undefined);
    assert.equal(await consul.kv.set({ key: "n/lock", value: "you", acquire: other }), true);
    assert.equal(await consul.kv.set({ key: "n/lock", value: "done", release: other }), true);
    await consul.session.destroy(other);
    await refused(() => consul.session.renew(ID), 404);
    assert.equal(await consul.session.info(ID), undefined);
  },

  async transaction() {
    const value = Buffer.from("v").toString("base64");
    const answer = await consul.transaction.create([
      { KV: { Verb: "set", Key: "n/t1", Value: value } },
      { KV: { Verb: "set", Key: "n/t2", Value: value } },
      { KV: { Verb: "get", Key: "n/t1" } },
    ]);
    assert.equal(answer.Errors, null);
    assert.equal(answer.Results.length, 3);
    assert.equal(answer.Results[2].KV.Value, value);
    await refused(
      () => consul.transaction.create([
        { KV: { Verb: "delete", Key: "n/t1" } },
        { KV: { Verb: "check-not-exists", Key: "n/t2" } },
      ]),
      409,
    );
    assert.ok(await consul.kv.get("n/t1"), "rolled back");
  },

  async event() {
    const fired = await consul.event.fire({ name: "node-event", payload: "hi" });
    assert.ok(fired.ID);
    const listed = await until("the event is listed", async () => {
      const events = await consul.event.list("node-event");
      return events.find((event) => event.ID === fired.ID);
    });
    assert.equal(listed.Payload, "hi");
    await consul.event.fire("bare");
  },

  async query() {
    const { ID } = await consul.query.create({
      name: "node-query", service: { service: "node-svc", onlypassing: true, tags: ["t1"] }, dns: { ttl: "10s" },
    });
    assert.equal((await consul.query.get(ID)).Name, "node-query");
    assert.ok((await consul.query.list()).some((query) => query.ID === ID));
    const answer = await consul.query.execute("node-query");
    assert.equal(answer.Service, "node-svc");
    assert.equal(answer.Nodes.length, 1);
    assert.equal(answer.DNS.TTL, "10s");
    await consul.query.update({ query: ID, name: "renamed", service: { service: "node-svc", tags: ["t9"] } });
    assert.deepEqual((await consul.query.execute("renamed")).Nodes, []);
    // This client looks for a list in the answer, which is an object.
    await consul.query.explain("renamed");
    await consul.query.destroy(ID);
    await refused(() => consul.query.execute(ID), 404);
  },

  async status() {
    assert.match(await consul.status.leader(), /^127\.0\.0\.1:\d+$/);
    assert.equal((await consul.status.peers()).length, 1);
  },

  async watch() {
    const seen = [];
    const watch = consul.watch({ method: consul.kv.get, options: { key: "n/watched", wait: "10s" }, backoffFactor: 10 });
    watch.on("change", (data) => seen.push(data?.Value));
    watch.on("error", (error) => seen.push(error));
    await until("the first state", () => seen.length === 1);
    for (const value of ["1", "2", "3"]) {
      await consul.kv.set("n/watched", value);
      await until(`the change to ${value}`, () => seen.at(-1) === value);
    }
    await consul.kv.del("n/watched");
    await until("the deletion", () => seen.at(-1) === undefined);
    watch.end();
    assert.deepEqual(seen, [undefined, "1", "2", "3", undefined]);

    const services = consul.watch({ method: consul.health.service, options: { service: "watched", passing: true } });
    let instances;
    services.on("change", (data) => (instances = data.map((entry) => entry.Service.ID)));
    await until("nobody", () => instances?.length === 0);
    await consul.agent.service.register({ name: "watched", id: "w1" });
    await until("the instance", () => instances.join() === "w1");
    await consul.agent.service.deregister("w1");
    await until("nobody again", () => instances.length === 0);
    services.end();
  },
};

async function main() {
  for (const [name, step] of Object.entries(steps)) {
    await step().catch((error) => {
      console.error(`${name} failed`);
      throw error;
    });
    console.log(`${name} ok`);
  }
  // Watches keep their last poll open.
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
