// The client against a server on loopback that does what networks and endpoints do.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { createClient, newKey, RunRefusedError, StreamLostError } from "./built/client.mjs";

const RUN = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";
const HEAD = { "Content-Type": "text/event-stream; charset=utf-8", "X-Run-Id": RUN };
const PATIENCE = { silenceMs: 60_000, answerMs: 60_000, patienceMs: 60_000 }; // a test that waits for one of them says so
const frame = (seq, type = "stream", fields = {}) =>
  `id: ${seq}\nevent: ${type}\ndata: ${JSON.stringify({ type, run_id: RUN, seq, at_ms: seq, elapsed_ms: seq, ...fields })}\n\n`;
const TEXTS = ["é", "日本\u2028", "😀", "a\r\nb"];
const FRAMES = [
  frame(1, "status", { phase: "accepted", message: "" }),
  ...TEXTS.map((text, at) => frame(at + 2, "stream", { channel: "stdout", text })),
  frame(6, "done", { exit_code: 0 }),
];
const WHOLE = Buffer.from(`: heartbeat\n\n${FRAMES.join("")}`);
const behind = (seq) => `: heartbeat\n\n${FRAMES.slice(seq).join("")}`;

const servers = [];
after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));

/** A server whose requests are answered by `answer`, in the order in which they come; each is noted in `asked`. */
async function served(answer, options = {}) {
  const asked = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { method, url, headers } = request;
    asked.push({ method, url, body, key: headers["idempotency-key"], from: headers["last-event-id"] });
    response.on("close", () => (asked.closed = (asked.closed ?? 0) + 1));
    await answer(response, asked.at(-1), asked.length);
  });
  servers.push(server);
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const { patience, ...more } = options;
  const url = `http://127.0.0.1:${server.address().port}/generate`;
  return { asked, url, client: createClient({ url, patience: { ...PATIENCE, ...patience }, ...more }) };
}
const stream = (response, text, end = true) => {
  response.writeHead(200, HEAD);
  response.write(text);
  if (end) response.end();
};
const refuse = (response, status, body) => {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(body));
};
async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}
const numbers = (events) => events.map((event) => event.seq);
const text = (events) => events.map((event) => event.text ?? "").join("");
const until = async (condition) => {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 500, condition.toString());
    await new Promise((soon) => setTimeout(soon, 10));
  }
};

test("a stream that breaks at any byte is read to its end, without a loss and without a repetition", async () => {
  const methods = new Map(); // by the place of the cut, which is the path's first part
  const { url } = await served((response, { method, url, from }) => {
    const at = Number(url.split("/")[1]);
    methods.set(at, [...(methods.get(at) ?? []), method]);
    if (methods.get(at).length > 1) return stream(response, behind(Number(from ?? 0)));
    response.writeHead(200, HEAD);
    response.write(WHOLE.subarray(0, at), () => (at === WHOLE.length ? response.end() : response.destroy()));
  });
  const cutAt = async (at) => {
    const client = createClient({ url: url.replace("generate", `${at}/generate`), patience: PATIENCE });
    const events = await all(client.run({ prompt: "a" }));
    assert.deepEqual(numbers(events), [1, 2, 3, 4, 5, 6], `cut at ${at}`);
    assert.equal(text(events), TEXTS.join(""));
    const [first, ...others] = methods.get(at);
    assert.equal(first, "POST");
    assert.ok(others.length <= 1 && others.every((method) => method === "GET"), "a run whose id is known is not started again");
  };
  const places = Array.from({ length: WHOLE.length + 1 }, (_, at) => at);
  while (places.length > 0) await Promise.all(places.splice(0, 300).map(cutAt));
});

test("an answer that repeats what came before, or leaves something out, makes no event come twice or get lost", async () => {
  const { client, asked } = await served((response, { from }, nth) => {
    if (nth === 1) return stream(response, FRAMES.slice(0, 3).join(""));
    if (nth === 2) return stream(response, FRAMES.slice(1, 4).join("")); // from an event before
    if (nth === 3) return stream(response, FRAMES[5]); // number 5 is missing
    stream(response, behind(Number(from)));
  });
  assert.deepEqual(numbers(await all(client.run({ prompt: "a" }))), [1, 2, 3, 4, 5, 6]);
  assert.deepEqual(asked.map(({ from }) => from), [undefined, "3", "4", "4"]);
});

test("nothing is read behind the terminal event, and 204 says that there is nothing more", async () => {
  const { client, asked } = await served((response, { method, url, from }) => {
    if (method === "POST") return stream(response, `${FRAMES.join("")}${frame(7)}`, false);
    assert.equal(url, `/generate/${RUN}`);
    if (Number(from) === 6) return response.writeHead(204).end();
    stream(response, behind(Number(from ?? 0)));
  });
  assert.deepEqual(numbers(await all(client.run({ prompt: "a" }))), [1, 2, 3, 4, 5, 6]);
  assert.deepEqual(numbers(await all(client.follow(RUN, { after: 6 }))), []);
  assert.deepEqual(numbers(await all(client.follow(RUN, { after: 4 }))), [5, 6]);
  assert.deepEqual(numbers(await all(client.follow(RUN))), [1, 2, 3, 4, 5, 6]);
  assert.equal(asked.length, 4);
});

test("a connection without a byte is taken for broken, one with heartbeats is not, nor a reader that takes its time", async () => {
  let beats = 0;
  const silenceMs = 2_000;
  const answer = (response, { from }, nth) => {
    if (nth === 1) return stream(response, FRAMES[0], false); // and then nothing more
    if (nth > 2) return stream(response, behind(Number(from)));
    response.writeHead(200, HEAD);
    const beating = setInterval(() => {
      response.write(": heartbeat\n\n");
      if (++beats === 10) response.write(FRAMES[1]);
      if (beats === 30) response.end(FRAMES.slice(2).join(""));
    }, 100);
    response.on("close", () => clearInterval(beating));
  };
  const { client, asked } = await served(answer, { patience: { silenceMs } });
  const breaks = [];
  const found = [];
  for await (const event of client.run({ prompt: "a" }, { onBreak: (reason) => breaks.push(reason) })) {
    found.push(event.seq);
    if (event.seq === 2) await new Promise((later) => setTimeout(later, silenceMs * 1.2));
  }
  assert.deepEqual(found, [1, 2, 3, 4, 5, 6]);
  assert.equal(breaks.length, 1);
  assert.match(breaks[0], /heartbeat/);
  assert.equal(asked.length, 2);
});

test("a POST whose answer is lost is sent again with its key and body; each run has a key of its own", async () => {
  const { client, asked } = await served((response, _, nth) => {
    if (nth === 1) return response.destroy();
    if (nth === 2) return response.writeHead(502, { "Content-Type": "text/html" }).end("<h1>Bad gateway</h1>");
    if (nth === 3) return refuse(response, 503, { error: "soon", code: "sandbox_unavailable", recoverable: true });
    stream(response, WHOLE);
  });
  const first = client.run({ prompt: "a" });
  await all(first);
  assert.deepEqual(new Set(asked.map(({ key }) => key)), new Set([first.key]));
  assert.deepEqual(new Set(asked.map(({ body }) => body)), new Set(['{"prompt":"a"}']));
  const second = client.run({ prompt: "a" });
  await all(second);
  await all(client.run({ prompt: "a" }, { key: "mine" }));
  assert.equal(new Set([first.key, second.key, "mine"]).size, 3);
  assert.equal(asked.at(-1).key, "mine");
  assert.match(newKey(), /^[0-9a-f]{32}$/);
});

test("a refusal has its code, its run and whether to try again, and is not repeated when that cannot help", async () => {
  const refusals = [
    [400, "invalid_request", false, undefined],
    [401, "unauthorized", false, undefined],
    [404, "not_found", false, undefined],
    [409, "project_busy", true, RUN],
    [410, "gone", false, RUN],
    [413, "too_large", false, undefined],
    [429, "over_capacity", true, undefined],
    [500, "commit_failed", false, RUN],
  ];
  for (const [status, code, recoverable, run_id] of refusals) {
    const { client, asked } = await served((response) => refuse(response, status, { error: "why", code, recoverable, run_id }));
    for (const call of [() => all(client.run({ prompt: "a" })), () => all(client.follow(RUN)), () => client.cancel(RUN)]) {
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof RunRefusedError);
        assert.deepEqual([error.status, error.code, error.message, error.recoverable, error.runId], [status, code, "why", recoverable, run_id]);
        return true;
      });
    }
    assert.equal(asked.length, 3);
  }
});

test("a redirect is not followed, and a page that is no stream is not read as one", async () => {
  for (const [status, headers, body] of [
    [301, { Location: "/elsewhere" }, ""],
    [307, { Location: "/elsewhere" }, ""],
    [200, { "Content-Type": "text/html" }, "<h1>Sign in</h1>"],
    [404, { "Content-Type": "text/html" }, "<h1>Not found</h1>"],
  ]) {
    const { client, asked } = await served((response) => response.writeHead(status, headers).end(body));
    await assert.rejects(() => all(client.run({ prompt: "a" })), { name: "RunRefusedError", status, recoverable: false });
    assert.equal(asked.length, 1);
  }
});

test("whoever stops reading closes the connection, by the signal or by leaving the loop", async () => {
  const { client, asked } = await served((response) => stream(response, FRAMES.slice(0, 2).join(""), false));
  for await (const event of client.run({ prompt: "a" })) if (event.seq === 2) break;
  await until(() => asked.closed === 1);
  const stopping = new AbortController();
  const why = new Error("the page has gone");
  await assert.rejects(async () => {
    for await (const event of client.run({ prompt: "a" }, { signal: stopping.signal })) {
      if (event.seq === 2) setTimeout(() => stopping.abort(why), 20);
    }
  }, why);
  await until(() => asked.closed === 2);
  await assert.rejects(() => all(client.run({ prompt: "a" }, { signal: AbortSignal.abort(why) })), why);
  assert.equal(asked.length, 2);
});

test("whoever leaves in the middle of what came together goes on behind the event that he has", async () => {
  const { client } = await served((response, { from }) => stream(response, behind(Number(from ?? 0))));
  for (let leaves = 1; leaves <= 5; leaves++) {
    const run = client.run({ prompt: "a" });
    for await (const event of run) if (event.seq === leaves) break;
    assert.equal(run.lastSeq, leaves);
    assert.equal(numbers(await all(client.follow(run.runId, { after: run.lastSeq })))[0], leaves + 1);
  }
});

test("an error that a hop has added ends the reading and counts as no event", async () => {
  const added = `event: error\ndata: ${JSON.stringify({ type: "error", run_id: RUN, seq: 2, code: "stream_lost", message: "m", recoverable: true })}\n\n`;
  const { client } = await served((response, { method }) => stream(response, method === "POST" ? FRAMES.slice(0, 2).join("") + added : behind(2)));
  const run = client.run({ prompt: "a" });
  const events = await all(run);
  assert.deepEqual([events.length, events.at(-1).code, run.lastSeq, run.runId], [3, "stream_lost", 2, RUN]);
  assert.deepEqual(numbers(await all(client.follow(RUN, { after: run.lastSeq }))), [3, 4, 5, 6]);
});

test("events of an unknown type are skipped and counted", async () => {
  const { client } = await served((response) => stream(response, FRAMES[0] + frame(2, "weather") + FRAMES.slice(2).join("")));
  assert.deepEqual(numbers(await all(client.run({ prompt: "a" }))), [1, 3, 4, 5, 6]);
});

test("when nobody answers any more, the error tells how far the reader has come", async () => {
  const patience = { patienceMs: 600 };
  const { client } = await served((response, _, nth) => (nth === 1 ? stream(response, FRAMES.slice(0, 2).join("")) : response.destroy()), { patience });
  await assert.rejects(() => all(client.run({ prompt: "a" })), (error) => {
    assert.ok(error instanceof StreamLostError);
    assert.deepEqual([error.lastSeq, error.runId, error.code, error.recoverable], [2, RUN, "stream_lost", true]);
    return true;
  });
  const nobody = createClient({ url: "http://127.0.0.1:9/generate", patience: { ...PATIENCE, ...patience } });
  await assert.rejects(() => all(nobody.run({ prompt: "a" })), { name: "RunRefusedError", code: "unreachable", status: 0, recoverable: true });
  await assert.rejects(() => nobody.cancel(RUN), { name: "RunRefusedError", code: "unreachable" });
  const { client: late } = await served(() => undefined, { patience: { answerMs: 200, patienceMs: 300 } });
  await assert.rejects(() => all(late.run({ prompt: "a" })), /no answer began within 0.2 s/);
  const { client: broken } = await served((response) => stream(response, "id: 1\nevent: status\ndata: {\n\n"));
  await assert.rejects(() => all(broken.run({ prompt: "a" })), StreamLostError);
});

test("a cancellation is asked for until somebody answers, with what the caller adds to each call", async () => {
  const over = { run_id: RUN, cancelled: true, outcome: "cancelled" };
  const { client, asked } = await served(
    (response, _, nth) => (nth === 1 ? response.destroy() : response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(over))),
    { query: { user_id: "me & you" } },
  );
  assert.deepEqual(await client.cancel(RUN), over);
  assert.deepEqual(asked.map(({ method, url }) => [method, url]), Array(2).fill(["DELETE", `/generate/${RUN}?user_id=me+%26+you`]));
});
