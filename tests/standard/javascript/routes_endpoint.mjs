// The client in front of the route handlers in front of the real endpoint: a browser's whole way.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "./built/client.mjs";
import { createRunRoutes } from "./built/routes.mjs";

const project_id = crypto.randomUUID();
const users = { mine: crypto.randomUUID(), other: crypto.randomUUID() };
const routes = createRunRoutes({
  authorize: (request) => (users[request.headers.get("x-user")] ? { user_id: users[request.headers.get("x-user")], project_id } : null),
});
/** What `fetch` is to a page: the handlers, called as Next.js calls them. */
const through = (input, init) => {
  const request = new Request(new URL(input, "http://app"), init);
  const runId = /^\/api\/runs\/(.+)$/.exec(new URL(request.url).pathname)?.[1];
  return runId === undefined ? routes.POST(request) : routes[request.method](request, { params: Promise.resolve({ runId }) });
};
const of = (user) => createClient({ url: "/api/runs", headers: { "x-user": user }, fetch: through, patience: { patienceMs: 5_000 } });
const client = of("mine");
async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

test("a run is started, read, read again, and another user's is none", async () => {
  const events = await all(client.run({ action: "python", code: "for i in range(3): print('line', i)" }));
  assert.equal(events.map(({ text }) => text ?? "").join(""), "line 0\nline 1\nline 2\n");
  assert.equal(events.at(-1).type, "done");
  assert.deepEqual(await all(client.follow(events[0].run_id, { after: 2 })), events.slice(2));
  assert.deepEqual(await all(client.follow(events[0].run_id, { after: events.length })), []);
  for (const call of [(run) => all(of("other").follow(run)), (run) => of("other").cancel(run)]) {
    await assert.rejects(() => call(events[0].run_id), { status: 404, code: "not_found" });
  }
  await assert.rejects(() => all(of("nobody").run({ prompt: "a" })), { status: 401, code: "unauthorized" });
  await assert.rejects(() => all(client.run({ action: "python" })), { status: 400, code: "invalid_request" });
});

test("a run that is cancelled tells so to who reads it; a busy project names the run that holds it", async () => {
  const run = client.run({ action: "python", code: "import time; print('on', flush=True); time.sleep(100)" });
  const events = [];
  for await (const event of run) {
    events.push(event);
    if (event.type !== "stream") continue;
    await assert.rejects(() => all(client.run({ action: "python", code: "1" })), { code: "project_busy", runId: run.runId, recoverable: true });
    const waiting = all(client.run({ action: "python", code: "print('mine')", wait_s: 60 }));
    assert.equal((await client.cancel(run.runId)).outcome, "cancelled");
    assert.deepEqual((await waiting).map(({ text }) => text ?? "").join(""), "mine\n");
  }
  assert.equal(events.at(-1).code, "cancelled");
});
