// A server on loopback that stands for the endpoint, or for the route handlers: it has one run of ten words.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after } from "node:test";
import { createClient } from "./built/client.mjs";

export const RUN = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";
export const servers = [];
after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));

/** The run's words come one each `pace` milliseconds from its first POST on, as events with `fields`; it can be cancelled.
 * After `state.leave()` the endpoint is away, until `state.away` is false. */
export async function endpoint({ pace = 20, headersAfter = 0, fields: more = { channel: "stdout" } } = {}) {
  const runs = new Map(); // by key
  const streams = new Set();
  const away = () => {
    state.away = true;
    for (const response of streams) response.destroy();
  };
  const state = { leave: away, away: false, posts: 0, keys: new Set(), deletes: 0, open: 0, most: 0 };
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
      put(seq === 12 ? event(seq, "done", { exit_code: 0 }) : event(seq, "stream", { ...more, text: `word ${seq} ` }));
      if (run.over) clearInterval(words);
    }, pace).unref();
    run.cancel = () => {
      clearInterval(words);
      if (!run.over) put(event(run.events.length + 1, "error", { code: "cancelled", message: "cancelled", recoverable: true }));
    };
    runs.set(key, run);
    return run;
  }
  const server = createServer(async (request, response) => {
    for await (const _ of request);
    if (state.away) return response.destroy();
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
    streams.add(response);
    response.on("close", () => (state.open--, streams.delete(response)));
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
  const url = `http://127.0.0.1:${server.address().port}/api/runs`;
  return { client: createClient({ url, patience: { patienceMs: 500 } }), state, url };
}
/** What stands for `sessionStorage`; `stored` is what it holds. */
export const memory = (stored = new Map()) => ({ getItem: (name) => stored.get(name) ?? null, setItem: (name, value) => stored.set(name, value), removeItem: (name) => stored.delete(name), stored });
/** Waits until something is the case. */
export const until = async (condition) => {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 1_000, condition.toString());
    await new Promise((soon) => setTimeout(soon, 5));
  }
};
