// The client against the real endpoint. Its address and its secret come from the environment.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "./built/client.mjs";

const { WORKBENCH_URL, WORKBENCH_SECRET } = process.env;
const user_id = crypto.randomUUID();
const of = (user, headers = { "X-Modal-Secret": WORKBENCH_SECRET }) =>
  createClient({ url: `${WORKBENCH_URL}/generate`, headers, query: { user_id: user }, patience: { patienceMs: 5_000 } });
const client = of(user_id);
const job = (code, project_id = crypto.randomUUID(), more = {}) => ({ user_id, project_id, action: "python", code, ...more });
async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

test("a run is read to its end, and once more from anywhere", async () => {
  const events = await all(client.run(job("for i in range(3): print('line', i, '\u2028😀')")));
  const numbers = events.map(({ seq }) => seq);
  assert.deepEqual(numbers, numbers.map((_, at) => at + 1));
  assert.equal(events.at(-1).type, "done");
  assert.equal(events.map((event) => event.text ?? "").join(""), [0, 1, 2].map((i) => `line ${i} \u2028😀\n`).join(""));
  for (const after of [0, 1, numbers.length - 1, numbers.length]) {
    assert.deepEqual((await all(client.follow(events[0].run_id, { after }))), events.slice(after));
  }
});

test("a run that is cancelled ends with that code, and one who cancels it again is told the same", async () => {
  const run = client.run(job("import time\nprint('on', flush=True)\ntime.sleep(100)"));
  let end;
  let cancelling;
  for await (const event of run) {
    if (event.type === "stream") cancelling ??= client.cancel(run.runId);
    end = event;
  }
  assert.equal(end.code, "cancelled");
  assert.deepEqual(await cancelling, { run_id: run.runId, cancelled: true, outcome: "cancelled" });
  assert.deepEqual(await client.cancel(run.runId), { run_id: run.runId, cancelled: true, outcome: "cancelled" });
});

test("the same key finds the same run, and another job with it is refused", async () => {
  const project = crypto.randomUUID();
  const first = await all(client.run(job("print(1)", project), { key: "one" }));
  assert.deepEqual(await all(client.run(job("print(1)", project), { key: "one" })), first);
  await assert.rejects(() => all(client.run(job("print(2)", project), { key: "one" })), { code: "idempotency_conflict", recoverable: false });
  const again = await all(client.run(job("print(1)", project)));
  assert.notEqual(again[0].run_id, first[0].run_id);
});

test("refusals are typed: a busy project with its holder, another user, a wrong secret, a bad job", async () => {
  const project = crypto.randomUUID();
  const holder = client.run(job("import time; print('on', flush=True); time.sleep(100)", project));
  for await (const event of holder) {
    if (event.type !== "stream") continue;
    await assert.rejects(() => all(client.run(job("1", project))), { status: 409, code: "project_busy", recoverable: true, runId: holder.runId });
    await assert.rejects(() => all(of(crypto.randomUUID()).follow(holder.runId)), { status: 404, code: "not_found" });
    await assert.rejects(() => of(crypto.randomUUID()).cancel(holder.runId), { status: 404, code: "not_found" });
    await assert.rejects(() => all(of(user_id, { "X-Modal-Secret": "a-wrong-secret-of-32-characters!" }).follow(holder.runId)), { status: 401, code: "unauthorized" });
    const waiting = all(client.run(job("print('mine')", project, { wait_s: 60 })));
    await client.cancel(holder.runId);
    assert.equal((await waiting).at(-1).type, "done");
    break;
  }
  await assert.rejects(() => all(client.run({ ...job("1"), colour: "red" })), { status: 400, code: "invalid_request", recoverable: false });
});
