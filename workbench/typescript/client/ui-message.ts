/**
 * A run as a message of the AI SDK 7: the mapping from a run's events to chunks of its UI message stream.
 *
 * It imports nothing of the AI SDK: what it needs of it is described here, and a test holds it against the real one.
 * One run is one message, whose id is the run's: it can be replayed from its first event at any time.
 */
import type { RunStream } from "./client";
import type { ClaudeMessage, ClaudePartial, ClaudeToolUse, RunEnd, RunEvent, RunStatusEvent, RunStreamEvent } from "./contract";
import { Conversation, textOf, type Part } from "./conversation";

/** The `data-*` parts of a message: its type in the AI SDK is `UIMessage<RunMetadata, RunData>`. */
export type RunData = {
  /** What the run does now; there is one such part. With `retry` it waits for the model. */
  status: Pick<RunStatusEvent, "phase" | "message" | "retry">;
  /** What a program has printed. */
  output: { channel: "stdout" | "stderr"; text: string };
  /** A file that a tool of Claude's has written; one part for each path. */
  file: { path: string; tool: string };
  /** A part of what a subagent says and does; its `subagent` is the id of the tool call that has started it. */
  subagent: Part;
  /** A block of words that the model took back, and that stays in the message all the same: see `standing`. */
  withdrawn: { block: string };
  /** What became of the files at the end. */
  commit: NonNullable<RunEnd["commit"]>;
  /** Why the run failed: `code` is one of the table, `recoverable` says whether a new run may succeed. */
  failure: { code: string; message: string; recoverable: boolean; run_id: string };
};

/** What a message knows of its run. */
export interface RunMetadata {
  run_id: string;
  /** Continues the conversation, as `resume` of the next job. */
  session_id?: string;
  usage?: NonNullable<RunEnd["usage"]>;
  result?: unknown;
}

interface Called {
  readonly toolCallId: string;
  readonly dynamic: true;
  readonly providerExecuted: true;
}
interface Named {
  readonly id: string;
  readonly providerMetadata: { readonly workbench: { readonly block: string } };
}

/** The chunks of the AI SDK's UI message stream that a run becomes. */
export type UiChunk =
  | { readonly type: "start"; readonly messageId: string; readonly messageMetadata: RunMetadata }
  | { readonly type: "start-step" | "finish-step" | "reset-step" }
  | (Named & { readonly type: "text-start" | "reasoning-start" })
  | { readonly type: "text-delta" | "reasoning-delta"; readonly id: string; readonly delta: string }
  | { readonly type: "text-end" | "reasoning-end"; readonly id: string }
  | (Called & { readonly type: "tool-input-start"; readonly toolName: string })
  | { readonly type: "tool-input-delta"; readonly toolCallId: string; readonly inputTextDelta: string }
  | (Called & { readonly type: "tool-input-available"; readonly toolName: string; readonly input: unknown })
  | (Called & { readonly type: "tool-input-error"; readonly toolName: string; readonly input: unknown; readonly errorText: string })
  | (Called & { readonly type: "tool-output-available"; readonly output: string })
  | (Called & { readonly type: "tool-output-error"; readonly errorText: string })
  | { readonly [Name in keyof RunData]: { readonly type: `data-${Name}`; readonly id?: string; readonly data: RunData[Name] } }[keyof RunData]
  | { readonly type: "finish"; readonly finishReason: "stop"; readonly messageMetadata: RunMetadata }
  | { readonly type: "abort"; readonly reason: string }
  | { readonly type: "error"; readonly errorText: string };

/** Claude's tools that write a file, and the field of their input that names it. */
const WRITERS: Readonly<Record<string, string>> = {
  Write: "file_path",
  Edit: "file_path",
  MultiEdit: "file_path",
  NotebookEdit: "notebook_path",
};

interface Tool {
  readonly name: string;
  /** The input, once all of it has come; else the call is still being written. */
  input?: { readonly [field: string]: unknown };
}

/** Turns the events of one run into chunks. It may begin anywhere in the run. */
export class UiMessageMapper {
  #begun = false;
  #step: string | undefined; // the id of the model's message that the current step shows
  #emptied = false; // the current step was reset: the next message of the model goes on in it
  #said: { readonly block: string; readonly kind: "text" | "reasoning" }[] = []; // the step's words, in order
  #open = new Map<string, "text" | "reasoning">(); // by block
  #tools = new Map<string, Tool>(); // by the call's id
  #calls = new Map<string, string>(); // the ids of the step's calls, by block
  #subagents = new Conversation();

  /** The chunks of the next event. */
  map(event: RunEvent): UiChunk[] {
    const chunks: UiChunk[] = [];
    if (!this.#begun) {
      this.#begun = true;
      chunks.push({ type: "start", messageId: event.run_id, messageMetadata: { run_id: event.run_id } });
    }
    if (event.type === "status") {
      const { phase, message, retry } = event;
      chunks.push({ type: "data-status", id: "status", data: retry === undefined ? { phase, message } : { phase, message, retry } });
    } else if (event.type === "stream") {
      if (event.replaces !== undefined) this.#withdraw(event.replaces, chunks);
      this.#stream(event, chunks);
    } else {
      this.#end(event, chunks);
    }
    return chunks;
  }

  #stream(event: RunStreamEvent, chunks: UiChunk[]): void {
    const { channel, text, message, message_id: block = "" } = event;
    if (channel !== "claude") chunks.push({ type: "data-output", data: { channel, text } });
    else if (message === undefined) this.#say("text", block, text, chunks);
    else if ("parent_tool_use_id" in message && message.parent_tool_use_id !== null) this.#subagent(event, chunks);
    else if (message.type === "stream_event") this.#partial(message, chunks);
    else if (message.type === "assistant" && message.is_api_error_message !== true) this.#whole(message, chunks);
    else if (message.type === "user") this.#answers(message, chunks);
  }

  #partial({ event, api_message_id = "" }: ClaudePartial, chunks: UiChunk[]): void {
    if (event?.type === "message_start") return this.#begin(event.message.id, chunks);
    if (event === undefined || !("index" in event)) return; // undefined in a line that was cut
    const block = `${api_message_id}#${event.index}`;
    if (event.type === "content_block_stop") return this.#close(block, chunks);
    if (event.type === "content_block_start") {
      if (event.content_block.type === "tool_use") this.#call(api_message_id, block, event.content_block, chunks);
      return;
    }
    const called = this.#calls.get(block);
    if (event.delta.type === "thinking_delta") this.#say("reasoning", block, event.delta.thinking, chunks);
    else if (event.delta.type === "input_json_delta" && called !== undefined && event.delta.partial_json !== "") {
      chunks.push({ type: "tool-input-delta", toolCallId: called, inputTextDelta: event.delta.partial_json });
    }
  }

  /** Blocks that are whole: of a call the input; of words only what has not come in pieces before. */
  #whole({ message }: Extract<ClaudeMessage, { type: "assistant" }>, chunks: UiChunk[]): void {
    for (const block of message?.content ?? []) {
      if (block.type === "tool_use") {
        const tool = this.#call(message.id, block.id, block, chunks);
        if (tool.input !== undefined) continue;
        tool.input = block.input;
        chunks.push({ type: "tool-input-available", ...called(block.id), toolName: tool.name, input: block.input });
        continue;
      }
      const kind = block.type === "text" ? "text" : "reasoning";
      const words = block.type === "text" ? block.text : block.thinking;
      const whole = `${message.id}#${kind}`;
      const came = this.#step === message.id ? this.#said.filter((one) => one.kind === kind) : [];
      if (came.some(({ block }) => !block.startsWith(whole))) continue;
      const name = `${whole}${came.length || ""}`;
      this.#say(kind, name, words, chunks);
      this.#close(name, chunks);
    }
  }

  #answers({ message }: Extract<ClaudeMessage, { type: "user" }>, chunks: UiChunk[]): void {
    const content = message?.content;
    for (const block of Array.isArray(content) ? content : []) {
      if (block.type !== "tool_result") continue;
      const tool = this.#tools.get(block.tool_use_id);
      if (tool === undefined) continue; // its call came before the reader began
      const call = called(block.tool_use_id);
      const said = textOf(block.content);
      if (block.is_error === true) {
        chunks.push({ type: "tool-output-error", ...call, errorText: said });
        continue;
      }
      chunks.push({ type: "tool-output-available", ...call, output: said });
      const path = tool.input?.[WRITERS[tool.name] ?? ""];
      if (typeof path === "string") chunks.push({ type: "data-file", id: path, data: { path, tool: tool.name } });
    }
  }

  #subagent(event: RunStreamEvent, chunks: UiChunk[]): void {
    const before = new Set(this.#subagents.parts);
    this.#subagents.add(event);
    for (const data of this.#subagents.parts) {
      if (!before.has(data)) chunks.push({ type: "data-subagent", id: data.id, data });
    }
  }

  /** The step that shows a message of the model; the step before is closed. */
  #begin(message: string, chunks: UiChunk[]): void {
    if (this.#step === message && !this.#emptied) return;
    if (!this.#emptied) {
      this.#leave(chunks);
      chunks.push({ type: "start-step" });
    }
    this.#emptied = false;
    this.#step = message;
    this.#said = [];
    this.#calls.clear();
  }

  /** Closes what the step has open. A call whose input never became whole broke off: nobody has made it. */
  #leave(chunks: UiChunk[]): void {
    for (const block of [...this.#open.keys()]) this.#close(block, chunks);
    for (const id of new Set(this.#calls.values())) {
      const tool = this.#tools.get(id);
      if (tool === undefined || tool.input !== undefined) continue;
      const errorText = "the call broke off before it was whole, and was not made";
      chunks.push({ type: "tool-input-error", ...called(id), toolName: tool.name, input: {}, errorText });
    }
    if (this.#step !== undefined) chunks.push({ type: "finish-step" });
  }

  #say(kind: "text" | "reasoning", block: string, delta: string, chunks: UiChunk[]): void {
    if (delta === "") return;
    if (!this.#open.has(block)) {
      this.#begin(block.split("#", 1)[0] ?? "", chunks);
      this.#open.set(block, kind);
      this.#said.push({ block, kind });
      chunks.push({ type: `${kind}-start`, id: block, providerMetadata: { workbench: { block } } });
    }
    chunks.push({ type: `${kind}-delta`, id: block, delta });
  }

  #call(message: string, block: string, { id, name }: Pick<ClaudeToolUse, "id" | "name">, chunks: UiChunk[]): Tool {
    const known = this.#tools.get(id);
    if (known !== undefined) return known;
    this.#begin(message, chunks);
    const tool: Tool = { name };
    this.#tools.set(id, tool);
    this.#calls.set(block, id);
    chunks.push({ type: "tool-input-start", ...called(id), toolName: name });
    return tool;
  }

  /**
   * Takes back a block, or with a message's id all of its blocks. The AI SDK can empty the current step, and no less. So
   * where something before the block stands, a `data-withdrawn` part names it instead. A call that was whole stands.
   */
  #withdraw(name: string, chunks: UiChunk[]): void {
    const words = this.#said.filter(({ kind }) => kind === "text");
    if (name !== this.#step && !words.some(({ block }) => block === name)) return; // not shown, or taken back already
    const calls = [...this.#calls.values()];
    if (calls.some((id) => this.#tools.get(id)?.input !== undefined) || (name !== this.#step && words[0]?.block !== name)) {
      this.#said = this.#said.filter(({ block }) => block !== name);
      this.#close(name, chunks);
      if (name !== this.#step) chunks.push({ type: "data-withdrawn", id: name, data: { block: name } });
      return;
    }
    for (const id of calls) this.#tools.delete(id);
    this.#calls.clear();
    this.#open.clear();
    this.#said = [];
    this.#emptied = true;
    chunks.push({ type: "reset-step" });
  }

  #close(block: string, chunks: UiChunk[]): void {
    const kind = this.#open.get(block);
    this.#open.delete(block);
    if (kind !== undefined) chunks.push({ type: `${kind}-end`, id: block });
  }

  #end(event: RunEnd, chunks: UiChunk[]): void {
    const { run_id, usage, commit } = event;
    this.#leave(chunks);
    if (commit !== undefined) chunks.push({ type: "data-commit", data: commit });
    if (event.type === "done") {
      const messageMetadata: RunMetadata = { run_id };
      if (usage !== undefined) messageMetadata.usage = usage;
      if (usage?.session_id !== undefined) messageMetadata.session_id = usage.session_id;
      if (event.result !== undefined) messageMetadata.result = event.result;
      chunks.push({ type: "finish", finishReason: "stop", messageMetadata });
      return;
    }
    const { code, message, recoverable } = event;
    chunks.push({ type: "data-failure", data: { code, message, recoverable, run_id } });
    if (code === "cancelled") chunks.push({ type: "abort", reason: message });
    else chunks.push({ type: "error", errorText: `${code}: ${message}` });
  }
}

function called(toolCallId: string): Called {
  return { toolCallId, dynamic: true, providerExecuted: true };
}

/** A part of a message of the AI SDK, as far as it is read here. */
export interface UiPart {
  readonly type: string;
  readonly text?: string;
  readonly data?: unknown;
  readonly providerMetadata?: { readonly [name: string]: unknown } | undefined;
}

/** The parts of a message without the words that the model has taken back. */
export function standing<One extends UiPart>(parts: readonly One[]): One[] {
  const withdrawn = parts.filter(({ type }) => type === "data-withdrawn");
  const gone = new Set(withdrawn.map(({ data }) => (data as RunData["withdrawn"]).block));
  return parts.filter(({ type, providerMetadata }) => {
    const { block } = (providerMetadata?.["workbench"] ?? {}) as { block?: string };
    return type !== "data-withdrawn" && (block === undefined || !gone.has(block));
  });
}

/**
 * The events of a run as chunks: `uiMessageStream((signal) => client.follow(runId, { signal }))`. Who cancels the stream
 * stops reading, at once; the run goes on for its grace period.
 */
export function uiMessageStream(open: (signal: AbortSignal) => RunStream): ReadableStream<UiChunk> {
  const reading = new AbortController();
  const mapper = new UiMessageMapper();
  const events = open(reading.signal)[Symbol.asyncIterator]();
  return new ReadableStream<UiChunk>(
    {
      async pull(controller) {
        for (;;) {
          const { done, value } = await events.next();
          if (done === true) return controller.close();
          const chunks = mapper.map(value);
          for (const chunk of chunks) controller.enqueue(chunk);
          if (chunks.length > 0) return;
        }
      },
      cancel() {
        reading.abort();
      },
    },
    { highWaterMark: 0 },
  );
}
