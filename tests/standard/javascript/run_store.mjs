// What a page shows of a run, without a page: reloads, stopping, double clicks, tabs; a server on loopback stands for ours.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { createClient } from "./built/client.mjs";
import { RunStore } from "./built/run-store.mjs";

const RUN = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";
const servers = [];
after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));

/** An endpoint with one run of ten words, one each `pace` milliseconds from its first POST on, that can be cancelled. */
async function endpoint({ pace = 20, headersAfter = 0 } = {}) {
  const runs = new Map(); // by key
  const state = { posts: 0, keys: new Set(), deletes: 0, open: 0, most: 0 };
  const event = (seq, type, fields) => ({ type, run_id: RUN, seq, at_ms: seq, elapsed_ms: seq, ...fields });
  function begin(key) {
    const run = { events: [event(1, "status", { phase: "accepted", message: "accepted" })], waiting: new Set(), over: false };
    const put = (one) => {
      run.events.push(one);
      run.over = one.type !== "stream";
      for (const tell of run.waiting) tell();
    };
    const words = setInterval(() => {
      const seq = run.events.length + 1;
      put(seq === 12 ? event(seq, "done", { exit_code: 0 }) : event(seq, "stream", { channel: "stdout", text: `word ${seq} ` }));
      if (run.over) clearInterval(words);
    }, pace);
    run.cancel = () => {
      clearInterval(words);
      if (!run.over) put(event(run.events.length + 1, "error", { code: "cancelled", message: "cancelled", recoverable: true }));
    };
    runs.set(key, run);
    return run;
  }
  const server = createServer(async (request, response) => {
    for await (const _ of request);
    const { method, headers } = request;
    const key = headers["idempotency-key"];
    if (method === "POST") {
      state.posts++;
      state.keys.add(key);
    }
    const run = method === "POST" ? (runs.get(key) ?? begin(key)) : [...runs.values()].at(-1);
    if (method === "DELETE") {
      state.deletes++;
      run.cancel();
      response.writeHead(200, { "Content-Type": "application/json" });
      return response.end(JSON.stringify({ run_id: RUN, cancelled: true, outcome: "cancelled" }));
    }
    state.most = Math.max(state.most, ++state.open);
    response.on("close", () => state.open--);
    if (headersAfter) await new Promise((later) => setTimeout(later, headersAfter));
    response.writeHead(200, { "Content-Type": "text/event-stream", "X-Run-Id": RUN });
    let at = Number(headers["last-event-id"] ?? 0);
    const tell = () => {
      for (; at < run.events.length; at++) {
        const one = run.events[at];
        response.write(`id: ${one.seq}\nevent: ${one.type}\ndata: ${JSON.stringify(one)}\n\n`);
      }
      if (run.over) response.end();
    };
    run.waiting.add(tell);
    response.on("close", () => run.waiting.delete(tell));
    tell();
  });
  servers.push(server);
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const client = createClient({ url: `http://127.0.0.1:${server.address().port}/api/runs`, patience: { patienceMs: 500 } });
  return { client, state };
}
const memory = (stored = new Map()) => ({ getItem: (name) => stored.get(name) ?? null, setItem: (name, value) => stored.set(name, value), removeItem: (name) => stored.delete(name), stored });
const until = async (condition) => {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 1_000, condition.toString());
    await new Promise((soon) => setTimeout(soon, 5));
  }
};
const WORDS = Array.from({ length: 10 }, (_, at) => `word ${at + 2} `).join("");
const whole = (view) => {
  assert.deepEqual(view.events.map(({ seq }) => seq), Array.from({ length: 12 }, (_, at) => at + 1));
  assert.equal(view.parts.map(({ text }) => text).join(""), WORDS);
  assert.equal(view.phase, "done");
};
const ended = (store) => until(() => ["done", "failed"].includes(store.getSnapshot().phase));

test("a run is shown to its end; a second click while it goes on is none, one behind it is a new run", async () => {
  const { client, state } = await endpoint();
  const store = new RunStore(client, "a", memory());
  const seen = [];
  store.subscribe(() => seen.push(store.getSnapshot().phase));
  for (let click = 0; click < 3; click++) store.start({ prompt: "a" });
  await ended(store);
  whole(store.getSnapshot());
  assert.deepEqual([...new Set(seen)], ["starting", "running", "done"]);
  store.retry();
  await ended(store);
  assert.deepEqual([state.posts, state.keys.size], [2, 2]);
});

for (const [when, ms] of [["at once", 0], ["before the headers", 30], ["in the middle", 150], ["behind the end", 600]]) {
  test(`a page that is loaded again ${when} shows the same run, whole`, async () => {
    const { client, state } = await endpoint({ headersAfter: ms === 30 ? 60 : 0 });
    const kept = memory();
    const before = new RunStore(client, "a", kept);
    const leave = before.attach();
    before.start({ prompt: "a" });
    await new Promise((later) => setTimeout(later, ms));
    leave();
    const behind = new RunStore(client, "a", kept);
    behind.attach();
    await ended(behind);
    whole(behind.getSnapshot());
    assert.equal(state.keys.size, 1, "it is one run");
  });
}

test("six loads in a row make no second run and lose nothing; a strict tree that mounts twice is no more", async () => {
  const { client, state } = await endpoint();
  const kept = memory();
  let store = new RunStore(client, "a", kept);
  store.start({ prompt: "a" });
  for (let load = 0; load < 6; load++) {
    store.attach()();
    store = new RunStore(client, "a", kept);
    store.attach()();
    const leave = store.attach();
    await new Promise((later) => setTimeout(later, 15));
    if (load < 5) leave();
  }
  await ended(store);
  whole(store.getSnapshot());
  assert.equal(state.keys.size, 1);
});

test("stopping ends the run itself, also before its id is known, and closes the stream before it asks", async () => {
  for (const [headersAfter, wait] of [[0, 100], [120, 20]]) {
    const { client, state } = await endpoint({ headersAfter });
    const store = new RunStore(client, "a", memory());
    store.start({ prompt: "a" });
    await new Promise((later) => setTimeout(later, wait));
    void store.stop();
    void store.stop();
    assert.equal(store.getSnapshot().phase, "stopping");
    await ended(store);
    const { phase, problem, events } = store.getSnapshot();
    assert.deepEqual([phase, problem.code, events.at(-1).code], ["failed", "cancelled", "cancelled"]);
    assert.deepEqual(events.map(({ seq }) => seq), events.map((_, at) => at + 1));
    assert.deepEqual([state.deletes, state.most], [1, 1]);
    await store.stop();
    assert.equal(state.deletes, 1);
  }
});

test("two tabs show one run, and one of them may go", async () => {
  const { client, state } = await endpoint();
  const first = new RunStore(client, "a", memory());
  first.start({ prompt: "a" });
  await until(() => first.getSnapshot().runId !== undefined);
  const second = new RunStore(client, "a", memory());
  second.follow(RUN);
  first.clear();
  assert.deepEqual([first.getSnapshot().phase, first.getSnapshot().events.length], ["idle", 0]);
  await ended(second);
  whole(second.getSnapshot());
  assert.deepEqual([state.posts, state.deletes], [1, 0]);
});

test("a refusal is shown with its run and forgotten; one that is not answered is found again", async () => {
  const kept = memory();
  const refusing = createServer((_, response) => response.writeHead(409).end(JSON.stringify({ error: "busy", code: "project_busy", recoverable: true, run_id: RUN })));
  servers.push(refusing);
  await new Promise((ready) => refusing.listen(0, "127.0.0.1", ready));
  const store = new RunStore(createClient({ url: `http://127.0.0.1:${refusing.address().port}` }), "a", kept);
  store.start({ prompt: "a" });
  await ended(store);
  assert.deepEqual(store.getSnapshot().problem, { code: "project_busy", message: "busy", recoverable: true, runId: RUN });
  assert.equal(kept.stored.size, 0);
  const away = new RunStore(createClient({ url: "http://127.0.0.1:9", patience: { patienceMs: 100 } }), "a", kept);
  away.start({ prompt: "a" });
  await ended(away);
  assert.equal(away.getSnapshot().problem.code, "unreachable");
  const { client, state } = await endpoint();
  const again = new RunStore(client, "a", kept);
  again.attach();
  await ended(again);
  whole(again.getSnapshot());
  assert.equal(state.posts, 1);
  const broken = new RunStore(client, "a", { getItem: () => { throw new Error("forbidden"); }, setItem: () => { throw new Error("full"); }, removeItem: () => undefined });
  broken.attach();
  broken.start({ prompt: "a" });
  await ended(broken);
  whole(broken.getSnapshot());
});
