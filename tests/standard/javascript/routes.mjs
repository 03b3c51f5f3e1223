// The route handlers, called as Next.js calls them, in front of an endpoint that does what endpoints do.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { createRunRoutes } from "./built/routes.mjs";

const SECRET = "a-secret-of-the-endpoint-1234567890";
const RUN = "6f9619ff-8b86-4d01-b42d-00c04fc964ff";
const OWNER = { user_id: "11111111-8b86-4d01-b42d-00c04fc964ff", project_id: "22222222-8b86-4d01-b42d-00c04fc964ff" };
const HEAD = { "Content-Type": "text/event-stream; charset=utf-8", "X-Run-Id": RUN };
const frame = (seq, type = "stream", fields = {}) =>
  `id: ${seq}\nevent: ${type}\ndata: ${JSON.stringify({ type, run_id: RUN, seq, at_ms: Date.now(), elapsed_ms: seq, ...fields })}\n\n`;
const servers = [];
after(() => servers.forEach((server) => (server.closeAllConnections(), server.close())));

/** Handlers before an endpoint that answers with `answer`; `asked` are its requests, `logged` what the handlers log. */
async function served(answer, options = {}) {
  const asked = [];
  const logged = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { method, url, headers } = request;
    asked.push({ method, url, body, headers });
    response.on("close", () => (asked.closed = (asked.closed ?? 0) + 1));
    await answer(response, asked.at(-1), asked.length);
  });
  servers.push(server);
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const routes = createRunRoutes({
    authorize: (request) => (request.headers.get("cookie") === "mine" ? OWNER : null),
    url: `http://127.0.0.1:${server.address().port}`,
    secret: SECRET,
    log: (message) => logged.push(message),
    patience: { patienceMs: 600, answerMs: 5_000, silenceMs: 2_000 },
    ...options,
  });
  return { routes, asked, logged };
}
const ask = (init = {}) => new Request("http://app/api/runs", { ...init, duplex: "half", headers: { cookie: "mine", ...init.headers } });
const post = (body, headers) => ask({ method: "POST", body: typeof body === "string" || body instanceof ReadableStream ? body : JSON.stringify(body), headers: { "content-type": "application/json", ...headers } });
const at = (runId) => ({ params: Promise.resolve({ runId }) });
const told = async (answer) => [answer.status, (await answer.json()).code];
const stream = (response, text, end = true) => {
  response.writeHead(200, HEAD);
  response.write(text);
  if (end) response.end();
};
const until = async (condition) => {
  for (let tries = 0; !condition(); tries++) {
    assert.ok(tries < 500, condition.toString());
    await new Promise((soon) => setTimeout(soon, 10));
  }
};
const nothing = () => assert.fail("the endpoint is not asked");

test("the ids are the session's, the secret is the server's, and the stream is passed on as it is", async () => {
  const whole = frame(1, "status") + frame(2) + frame(3, "done");
  const { routes, asked } = await served((response) => stream(response, `: heartbeat\n\n${whole}`));
  const answer = await routes.POST(post({ prompt: "a" }, { "idempotency-key": "k" }));
  assert.equal((await answer.text()).replaceAll(": heartbeat\n\n", ""), whole);
  const names = ["content-type", "cache-control", "x-accel-buffering", "x-run-id"];
  assert.deepEqual(names.map((name) => answer.headers.get(name)), ["text/event-stream; charset=utf-8", "no-cache, no-transform", "no", RUN]);
  assert.deepEqual(JSON.parse(asked[0].body), { prompt: "a", ...OWNER });
  assert.deepEqual([asked[0].headers["x-modal-secret"], asked[0].headers["idempotency-key"]], [SECRET, "k"]);
  assert.equal(asked[0].headers.cookie, undefined);
  await (await routes.POST(post({ prompt: "a" }))).text();
  await (await routes.POST(post({ prompt: "a" }))).text();
  assert.notEqual(asked[1].headers["idempotency-key"], asked[2].headers["idempotency-key"]);
  await (await routes.GET(ask({ headers: { "last-event-id": "2" } }), at(RUN))).text();
  assert.deepEqual([asked[3].url, asked[3].headers["last-event-id"]], [`/generate/${RUN}?user_id=${OWNER.user_id}`, "2"]);
});

test("nobody, a wrong body, another's ids and a run that is no run never reach the endpoint", async () => {
  const { routes, asked } = await served(nothing, { maxBodyBytes: 1_000, accept: (job) => (job.action === "git" ? null : job) });
  const nobody = { headers: { cookie: "other" } };
  assert.deepEqual(await told(await routes.POST(new Request("http://app", { method: "POST", body: "{}", ...nobody }))), [401, "unauthorized"]);
  assert.deepEqual(await told(await routes.GET(ask(nobody), at(RUN))), [401, "unauthorized"]);
  assert.deepEqual(await told(await routes.DELETE(ask({ method: "DELETE", ...nobody }), at(RUN))), [401, "unauthorized"]);
  for (const body of ["", "{", "[]", "null", "3", '"a"', "\ud800"]) assert.deepEqual(await told(await routes.POST(post(body))), [400, "invalid_request"], body);
  for (const field of Object.keys(OWNER)) assert.deepEqual(await told(await routes.POST(post({ prompt: "a", [field]: OWNER[field] }))), [400, "invalid_request"]);
  for (const type of ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]) {
    assert.deepEqual(await told(await routes.POST(post({ prompt: "a" }, { "content-type": type }))), [400, "invalid_request"]);
  }
  for (const id of ["", "..", "../health", "a?user_id=x", RUN.toUpperCase(), `${RUN}\n`]) assert.deepEqual(await told(await routes.GET(ask(), at(id))), [404, "not_found"], id);
  for (const from of ["-1", "1.5", "x"]) assert.deepEqual(await told(await routes.GET(ask({ headers: { "last-event-id": from } }), at(RUN))), [400, "invalid_request"]);
  assert.deepEqual(await told(await routes.POST(post({ action: "git", op: "log" }))), [403, "permission_denied"]);
  assert.deepEqual(await told(await routes.GET(ask({ method: "HEAD" }), at(RUN))), [405, "method_not_allowed"]);
  assert.equal(asked.length, 0);
});

test("a body is bounded before it is read, and one that was cut off on its way is told as that", async () => {
  const { routes } = await served(nothing, { maxBodyBytes: 1_000 });
  let pulled = 0;
  const endless = () => new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(100).fill(32 + (pulled++ & 0))) });
  assert.deepEqual(await told(await routes.POST(post(endless()))), [413, "too_large"]);
  assert.ok(pulled < 20);
  pulled = 0;
  assert.deepEqual(await told(await routes.POST(post(endless(), { "content-length": "1001" }))), [413, "too_large"]);
  assert.ok(pulled <= 1, "one that says that it is too large is not read at all");
  const cut = await routes.POST(post('{"prompt": "', { "content-length": "900" }));
  assert.match((await cut.json()).error, /only 12 of 900 bytes.*proxy\.ts/);
});

test("a refusal of the endpoint is passed on; its 401, its redirects and its breakdowns are the server's own affair", async () => {
  const busy = { error: "another run holds the project", code: "project_busy", recoverable: true, run_id: RUN };
  const inner = { error: `wrong ${SECRET}`, code: "unauthorized", recoverable: false };
  const answers = [
    [409, JSON.stringify(busy), 409, busy],
    [404, JSON.stringify({ error: "no", code: "not_found", recoverable: false, detail: "x" }), 404, { error: "no", code: "not_found", recoverable: false }],
    [401, JSON.stringify(inner), 500, { error: "this application is not set up to run jobs", code: "internal", recoverable: false }],
    [302, "", 502, { error: "the endpoint that runs jobs does not answer as it should", code: "internal", recoverable: false }],
    [502, "<h1>inner.example</h1>", 502, { error: "the endpoint that runs jobs does not answer as it should", code: "internal", recoverable: true }],
    [200, "<h1>inner.example</h1>", 502, { error: "the endpoint that runs jobs does not answer as it should", code: "internal", recoverable: false }],
  ];
  for (const [status, body, outer, shown] of answers) {
    const { routes, logged } = await served((response) => response.writeHead(status, { Location: "http://inner.example/" }).end(body));
    const calls = [() => routes.POST(post({ prompt: "a" })), () => routes.GET(ask(), at(RUN))];
    for (const call of status === 200 ? calls : [...calls, () => routes.DELETE(ask({ method: "DELETE" }), at(RUN))]) {
      const answer = await call();
      assert.equal(answer.status, outer);
      assert.deepEqual(await answer.json(), shown);
      assert.equal(answer.headers.get("cache-control"), "no-store");
    }
    assert.equal(logged.length > 0, outer >= 500);
    assert.ok(!JSON.stringify(logged).includes(SECRET));
  }
  const { routes } = await served(nothing, { url: "http://127.0.0.1:9" });
  assert.deepEqual(await told(await routes.POST(post({ prompt: "a" }))), [502, "internal"]);
  for (const missing of [{ url: "" }, { secret: "" }]) {
    const { routes, logged } = await served(nothing, missing);
    assert.deepEqual(await told(await routes.POST(post({ prompt: "a" }))), [500, "internal"]);
    assert.match(logged[0], /WORKBENCH_URL/);
  }
});

test("whoever authorises badly starts nothing, and what it throws is the application's", async () => {
  for (const wrong of [{ user_id: "../x", project_id: OWNER.project_id }, { user_id: OWNER.user_id, project_id: undefined }, {}]) {
    const { routes, logged } = await served(nothing, { authorize: () => wrong });
    assert.deepEqual(await told(await routes.POST(post({ prompt: "a" }))), [500, "internal"]);
    assert.match(logged[0], /authorize/);
  }
  const thrown = new Error("NEXT_REDIRECT");
  const { routes } = await served(nothing, { authorize: () => Promise.reject(thrown) });
  await assert.rejects(() => routes.POST(post({ prompt: "a" })), thrown);
});

test("a browser that leaves ends the call, before the headers and behind them", async () => {
  const { routes, asked } = await served((response, _, nth) => (nth === 1 ? undefined : stream(response, frame(1, "status"), false)));
  const leaving = new AbortController();
  const early = routes.POST(new Request(post({ prompt: "a" }), { signal: leaving.signal }));
  await until(() => asked.length === 1);
  leaving.abort();
  assert.equal((await early).status, 499);
  await until(() => asked.closed === 1);
  for (const how of ["signal", "cancel"]) {
    const closed = asked.closed;
    const later = new AbortController();
    const answer = await routes.POST(new Request(post({ prompt: "a" }), { signal: later.signal }));
    const reader = answer.body.getReader();
    await reader.read();
    if (how === "signal") later.abort();
    else await reader.cancel();
    await until(() => asked.closed === closed + 1);
  }
});

test("an endpoint that breaks off is resumed; one that stays away ends the stream in one error without a number", async () => {
  const { routes } = await served((response, { headers }, nth) => {
    if (nth > 1) return stream(response, frame(Number(headers["last-event-id"]) + 1, "done"));
    response.writeHead(200, HEAD);
    response.write(`${frame(1, "status")}${frame(2).slice(0, 40)}`, () => response.destroy());
  });
  const resumed = await (await routes.POST(post({ prompt: "a" }))).text();
  assert.deepEqual([...resumed.matchAll(/^id: (.*)$/gm)].map(([, id]) => id), ["1", "2"]);
  for (const [second, code] of [["destroy", "stream_lost"], [{ error: "gone", code: "gone", recoverable: false }, "gone"], [401, "internal"]]) {
    const { routes } = await served((response, _, nth) => {
      if (nth === 1) return stream(response, frame(1, "status"));
      if (second === "destroy") return response.destroy();
      response.writeHead(second.code === undefined ? 401 : 410).end(JSON.stringify(second));
    });
    const text = await (await routes.POST(post({ prompt: "a" }))).text();
    const errors = text.split("\n\n").filter((one) => one.startsWith("event: error"));
    assert.equal(errors.length, 1);
    const event = JSON.parse(errors[0].split("\ndata: ")[1]);
    assert.deepEqual([event.type, event.code, event.run_id, event.seq], ["error", code, RUN, 1]);
    assert.ok(event.elapsed_ms >= 1 && !errors[0].includes("id:"));
    assert.ok(text.endsWith("\n\n"));
  }
});

test("a browser that does not read stops the endpoint, and reads everything in the end", async () => {
  const text = "x".repeat(60_000);
  const count = 1_000;
  let written = 0;
  const { routes } = await served(async (response) => {
    response.writeHead(200, HEAD);
    for (let seq = 1; seq <= count; seq++) {
      if (!response.write(frame(seq, seq === count ? "done" : "stream", { text }))) await new Promise((drained) => response.once("drain", drained));
      written = seq;
    }
    response.end();
  });
  const answer = await routes.POST(post({ prompt: "a" }));
  const reader = answer.body.getReader();
  await reader.read();
  let before = -1;
  while (before !== written) {
    before = written;
    await new Promise((soon) => setTimeout(soon, 300));
  }
  assert.ok(written < 300, `${written} of ${count} events were taken ahead of the browser`);
  let bytes = 0;
  let whole = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    bytes += read.value.length;
    whole = Buffer.from(read.value).toString().slice(-400_000) || whole;
  }
  assert.equal(written, count);
  assert.ok(bytes > (count - 20) * 60_000);
  assert.match(whole, new RegExp(`id: ${count}\\n`));
});
