// What a page shows of a run, without a page: reloads, stopping, double clicks, tabs; a server on loopback stands for ours.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { createClient } from "./built/client.mjs";
import { RunStore } from "./built/run-store.mjs";
import { endpoint, memory, RUN, servers, until } from "./one_run.mjs";

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

test("a run that is lost from sight is read again by a retry, and no new one is made", async () => {
  const { client, state } = await endpoint();
  const store = new RunStore(client, "a", memory());
  store.start({ prompt: "a" });
  await until(() => store.getSnapshot().events.length > 3);
  state.leave();
  await ended(store);
  assert.equal(store.getSnapshot().problem.code, "stream_lost");
  state.away = false;
  store.retry();
  assert.equal(store.getSnapshot().problem, undefined);
  await ended(store);
  whole(store.getSnapshot());
  assert.equal(state.posts, 1);
  store.retry();
  await ended(store);
  assert.equal(state.posts, 2, "of a run that has ended, a retry is a new one");
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
