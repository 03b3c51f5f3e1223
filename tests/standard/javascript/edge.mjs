// The client and the route handlers in an edge runtime, which has nothing of Node.js. `edge.js` holds both as one script.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { EdgeVM } from "@edge-runtime/vm";
import { endpoint, RUN } from "./one_run.mjs";

const vm = new EdgeVM({ extend: (context) => Object.assign(context, { process: { env: {} } }) }); // as hosts have it
vm.evaluate(readFileSync(new URL("edge.js", import.meta.url), "utf8"));
const call = (code, ...values) => vm.evaluate(`(async (...values) => {
  const [url, ...others] = values;
  const { client: { createClient }, routes: { createRunRoutes } } = workbench;
  const all = async (events) => { const found = []; for await (const event of events) found.push(event); return found; };
  ${code}
})`)(...values);
const numbers = Array.from({ length: 12 }, (_, at) => at + 1);

test("a run is started, followed and cancelled where there is no Node.js", async () => {
  const { url, state } = await endpoint({ pace: 5 });
  assert.deepEqual(
    JSON.parse(await call(`
      const client = createClient({ url });
      const run = await all(client.run({ prompt: "a" }));
      const rest = await all(client.follow(run[0].run_id, { after: 10 }));
      const { outcome } = await client.cancel(run[0].run_id);
      return JSON.stringify([typeof Buffer, run.map(({ seq }) => seq), rest.map(({ seq }) => seq), outcome]);
    `, url)),
    ["undefined", numbers, [11, 12], "cancelled"],
  );
  assert.deepEqual([state.posts, state.deletes], [1, 1]);
});

test("the route handlers answer there, too", async () => {
  const { url } = await endpoint({ pace: 5 });
  const [status, type, run, text] = JSON.parse(await call(`
    const owner = { user_id: others[0], project_id: others[0] };
    const routes = createRunRoutes({ authorize: () => owner, url, secret: "a-secret-of-the-endpoint" });
    const headers = { "Content-Type": "application/json" };
    const answer = await routes.POST(new Request("http://app/api/runs", { method: "POST", headers, body: '{"prompt": "a"}' }));
    return JSON.stringify([answer.status, answer.headers.get("content-type"), answer.headers.get("x-run-id"), await answer.text()]);
  `, url, RUN));
  assert.deepEqual([status, type, run], [200, "text/event-stream; charset=utf-8", RUN]);
  assert.deepEqual([...text.matchAll(/^id: (.*)$/gm)].map(([, id]) => Number(id)), numbers);
});
