// Runs as messages of the real AI SDK: what it makes of recorded runs of the Claude CLI, and its chat over our transport.
// argv: a file with { name: events }, and one to write { name: message } to.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { AbstractChat, readUIMessageStream } from "ai";
import { createClient } from "./built/client.mjs";
import { Conversation } from "./built/conversation.mjs";
import { promptOf, RunTransport, standing, uiMessageStream, UiMessageMapper } from "./built/ai-sdk.mjs";
import { endpoint, memory, RUN, servers, until } from "./one_run.mjs";

/** The message that the AI SDK makes of events, and the errors that it is told; what it cannot read fails. */
async function message(events) {
  const stream = uiMessageStream(() => ({ async *[Symbol.asyncIterator]() { yield* events; } }));
  const errors = [];
  let last;
  const onError = (error) => {
    if (error.name === "AI_UIMessageStreamError") throw error;
    errors.push(error.message);
  };
  for await (const one of readUIMessageStream({ stream, onError })) last = one;
  return { ...last, errors };
}

test("the AI SDK reads every recorded run, from its first event and from any other", async () => {
  const found = {};
  for (const [name, events] of Object.entries(JSON.parse(readFileSync(process.argv[2], "utf8")))) {
    const whole = await message(events);
    found[name] = { ...whole, standing: standing(whole.parts) };
    assert.deepEqual(await message(events), whole, "a replay is the same message");
    const step = Math.ceil(events.length / 40);
    for (let from = 1; from < events.length; from += step) await message(events.slice(from));
    const chunks = events.flatMap((mapper => (event) => mapper.map(event))(new UiMessageMapper()));
    const count = (type) => chunks.filter((chunk) => chunk.type === type).length;
    assert.deepEqual([count("start"), count("start-step")], [1, count("finish-step")], name);
    assert.equal(count("text-start") + count("reasoning-start") >= count("text-end") + count("reasoning-end"), true);
  }
  writeFileSync(process.argv[3], JSON.stringify(found));
});

const TOOL = { type: "tool_use", id: "t", name: "Write", input: { file_path: "/workspace/a.txt", content: "a" } };
const line = (type, message, parent_tool_use_id = null) => ({ type: "stream", channel: "claude", text: "", message: { type, message, parent_tool_use_id } });
const said = (id, ...content) => line("assistant", { id, model: "m", content });
const answered = (tool_use_id, content, is_error, parent) => line("user", { content: [{ type: "tool_result", tool_use_id, content, is_error }] }, parent);
const numbered = (events) => events.map((event, at) => ({ run_id: RUN, seq: at + 1, at_ms: 1, elapsed_ms: 1, ...event }));

test("files that were written, what subagents do, output, commits and usage are parts of the message", async () => {
  const commit = { committed: true, elapsed_ms: 1, changed: 1, compared: 1 };
  const usage = { input_tokens: 1, output_tokens: 2, cache_read_tokens: 0, cache_write_tokens: 0, cost_usd: 0.1, turns: 1, session_id: "s" };
  const retry = { attempt: 1, most: 10, wait_ms: 500 };
  const inside = { type: "tool_use", id: "inner", name: "Bash", input: { command: "ls" } };
  const events = numbered([
    { type: "status", phase: "accepted", message: "accepted" },
    { type: "status", phase: "running", message: "running", retry },
    { type: "stream", channel: "stderr", text: "a warning" },
    said("m1", TOOL),
    answered("t", [{ type: "text", text: "written" }]),
    answered("of another run", "?"),
    said("m2", { ...TOOL, id: "u" }),
    answered("u", "may not", true),
    said("m3", { type: "tool_use", id: "agent", name: "Agent", input: {} }),
    line("assistant", { id: "s1", model: "m", content: [inside] }, "agent"),
    answered("inner", "a.txt", undefined, "agent"),
    answered("agent", "looked"),
    { type: "done", exit_code: 0, commit, usage, result: "r" },
  ]);
  const { parts, metadata, errors } = await message(events);
  const of = (type) => parts.filter((part) => part.type === type).map(({ data }) => data);
  assert.deepEqual(of("data-file"), [{ path: "/workspace/a.txt", tool: "Write" }], "what was refused is not written");
  assert.deepEqual(of("data-status"), [{ phase: "running", message: "running", retry }]);
  assert.deepEqual(of("data-output"), [{ channel: "stderr", text: "a warning" }]);
  assert.deepEqual(of("data-commit"), [commit]);
  assert.deepEqual(of("data-subagent"), [{ kind: "tool", id: "inner", name: "Bash", input: '{"command":"ls"}', result: "a.txt", failed: false, subagent: "agent" }]);
  const tools = parts.filter(({ type }) => type === "dynamic-tool");
  assert.deepEqual(tools.map(({ toolCallId, state }) => [toolCallId, state]), [["t", "output-available"], ["u", "output-error"], ["agent", "output-available"]]);
  assert.deepEqual([metadata, errors], [{ run_id: RUN, usage, session_id: "s", result: "r" }, []]);
});

test("blocks that come whole are all shown, and once", async () => {
  const text = (words) => ({ type: "text", text: words });
  const streams = [
    [said("m", text("one ")), said("m", text("two ")), said("n", text("three"))],
    [said("m", text("one "), { type: "thinking", thinking: "hm" }, text("two "), text("three"))],
    [{ type: "stream", channel: "claude", message_id: "m#0", text: "one two three" }, said("m", text("one two three"))],
  ];
  for (const events of streams.map(numbered)) {
    const { parts } = await message(events);
    const conversation = new Conversation();
    for (const event of events) conversation.add(event);
    for (const found of [parts, conversation.parts]) {
      const words = found.filter((part) => (part.type ?? part.kind) === "text").map(({ text }) => text);
      assert.equal(words.join(""), "one two three");
    }
  }
});

/** The AI SDK's chat without a framework; `messages` are what the application has kept of it. */
class Chat extends AbstractChat {
  constructor(client, kept, messages = []) {
    const state = {
      status: "ready", error: undefined, messages,
      pushMessage: (one) => (state.messages = [...state.messages, one]),
      popMessage: () => (state.messages = state.messages.slice(0, -1)),
      replaceMessage: (at, one) => (state.messages = state.messages.with(at, structuredClone(one))),
      snapshot: (thing) => structuredClone(thing),
    };
    super({ id: "chat", state, transport: new RunTransport(client, { memory: kept }) });
  }
}
const CLAUDE = { fields: { channel: "claude", message_id: "m#0" } };
const WORDS = Array.from({ length: 10 }, (_, at) => `word ${at + 2} `).join("");
const text = (chat) => chat.lastMessage.parts.map((part) => (part.type === "text" ? part.text : "")).join("");

test("a chat shows its run, whose id its answer has; nothing is kept behind the end", async () => {
  const { client, state } = await endpoint(CLAUDE);
  const kept = memory();
  const chat = new Chat(client, kept);
  await chat.sendMessage({ text: "a page" });
  assert.deepEqual([chat.status, chat.messages.length, chat.lastMessage.id, text(chat)], ["ready", 2, RUN, WORDS]);
  assert.deepEqual(chat.lastMessage.metadata, { run_id: RUN });
  assert.deepEqual([state.posts, state.deletes, kept.stored.size], [1, 0, 0]);
  await chat.resumeStream();
  assert.deepEqual([chat.messages.length, text(chat), state.posts], [2, WORDS, 1], "there is nothing to resume");
});

for (const [when, ms, headersAfter] of [["at once", 0, 0], ["before the headers", 30, 60], ["in the middle", 120, 0]]) {
  test(`a page that is loaded again ${when} shows the message from its first word`, async () => {
    const { client, state } = await endpoint({ ...CLAUDE, headersAfter });
    const kept = memory();
    const before = new Chat(client, kept);
    void before.sendMessage({ text: "a page" });
    await new Promise((later) => setTimeout(later, ms));
    const again = new Chat(client, memory(new Map(kept.stored)), structuredClone(before.messages));
    await again.resumeStream();
    assert.deepEqual([again.status, again.messages.length, text(again)], ["ready", 2, WORDS]);
    assert.equal(state.keys.size, 1, "it is one run");
  });
}

for (const [when, ms, headersAfter] of [["before its id is known", 20, 120], ["in the middle", 120, 0]]) {
  test(`to stop a chat ${when} ends its run, and closes the stream before it asks`, async () => {
    const { client, state } = await endpoint({ ...CLAUDE, headersAfter });
    const kept = memory();
    const chat = new Chat(client, kept);
    const sent = chat.sendMessage({ text: "a page" });
    await new Promise((later) => setTimeout(later, ms));
    await chat.stop();
    await sent;
    assert.equal(chat.status, "ready");
    await until(() => state.deletes === 1 && state.open === 0);
    await until(() => kept.stored.size === 0);
    assert.deepEqual([state.posts, state.deletes], [1, 1]);
  });
}

test("whoever cancels the chunks closes the connection at once, and the run goes on", async () => {
  const { client, state } = await endpoint({ ...CLAUDE, pace: 100_000 });
  const reader = uiMessageStream((signal) => client.run({ prompt: "a" }, { signal })).getReader();
  await reader.read();
  void reader.read().catch(() => undefined);
  await until(() => state.open === 1);
  await reader.cancel();
  await until(() => state.open === 0);
  assert.equal(state.deletes, 0);
});

test("a refusal is the chat's error, and is not found again", async () => {
  const { createServer } = await import("node:http");
  const busy = { error: "another run holds the project", code: "project_busy", recoverable: true, run_id: RUN };
  const refusing = createServer((_, response) => response.writeHead(409).end(JSON.stringify(busy)));
  servers.push(refusing);
  await new Promise((ready) => refusing.listen(0, "127.0.0.1", ready));
  const kept = memory();
  const chat = new Chat(createClient({ url: `http://127.0.0.1:${refusing.address().port}` }), kept);
  await chat.sendMessage({ text: "a page" });
  assert.deepEqual([chat.status, chat.error.message, chat.error.code], ["error", "another run holds the project", "project_busy"]);
  assert.equal(kept.stored.size, 0);
});

test("a question goes on in the session of the last answer that has one", () => {
  const asked = (words) => ({ role: "user", parts: [{ type: "text", text: words }, { type: "file", url: "x" }, { type: "text", text: "!" }] });
  const answered = (metadata) => ({ role: "assistant", metadata, parts: [{ type: "text", text: "answer" }] });
  assert.deepEqual(promptOf([asked("one")]), { prompt: "one!" });
  assert.deepEqual(promptOf([asked("one"), answered({ run_id: RUN, session_id: "s" }), asked("two")]), { prompt: "two!", resume: "s" });
  const failed = answered({ run_id: RUN });
  assert.deepEqual(promptOf([asked("one"), answered({ run_id: RUN, session_id: "s" }), asked("two"), failed, asked("three")]), { prompt: "three!", resume: "s" });
});
