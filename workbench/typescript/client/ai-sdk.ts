/**
 * A chat transport for `useChat` of the AI SDK 7, over the same route handlers as everything else here.
 *
 * It imports nothing of the AI SDK, as `ui-message.ts` does not.
 */
import { newKey, RunRefusedError, type Client, type RunStream } from "./client";
import type { JobInput, RunEvent } from "./contract";
import { pageMemory, type Memory } from "./run-store";
import { uiMessageStream, type RunMetadata, type UiChunk, type UiPart } from "./ui-message";

export * from "./ui-message";

/** A message of a chat, as far as it is read here. */
export interface ChatMessage {
  readonly role: string;
  readonly metadata?: unknown;
  readonly parts: readonly UiPart[];
}

/** The job for a chat: the text of its last question as the prompt, in the session of the last answer. */
export function promptOf(messages: readonly ChatMessage[]): JobInput {
  const before = [...messages].reverse();
  const question = before.find(({ role }) => role === "user");
  const prompt = (question?.parts ?? []).map(({ type, text }) => (type === "text" ? text : "")).join("");
  const answers = before.map(({ metadata }) => metadata as RunMetadata | undefined);
  const session = answers.find((metadata) => metadata?.session_id !== undefined)?.session_id;
  return session === undefined ? { prompt } : { prompt, resume: session };
}

interface Chat {
  readonly chatId: string;
  readonly abortSignal?: AbortSignal | undefined;
}

interface Remembered {
  readonly runId?: string;
  readonly key?: string;
  readonly job?: JobInput;
}

/**
 * A transport for `useChat`: `new RunTransport(client)`. Its `stop()` ends the run itself, which an aborted fetch alone
 * does not. With `resume: true` a page that is loaded again shows its run from the first event.
 */
export class RunTransport {
  /** A resumed stream is the whole message again, and takes the place of what was shown of it. */
  readonly resumeStreamIsReplay = true;
  readonly #client: Client;
  readonly #jobOf: (messages: readonly ChatMessage[]) => JobInput;
  readonly #memory: Memory | undefined;

  /** `jobOf` makes a job of a chat, `promptOf` unless given; `memory` keeps runs over a reload, `sessionStorage` unless given. */
  constructor(
    client: Client,
    options: { readonly jobOf?: (messages: readonly ChatMessage[]) => JobInput; readonly memory?: Memory } = {},
  ) {
    this.#client = client;
    this.#jobOf = options.jobOf ?? promptOf;
    this.#memory = options.memory ?? pageMemory();
  }

  /** Starts a run for the last message of a chat. */
  readonly sendMessages = async (chat: Chat & { readonly messages: readonly ChatMessage[] }): Promise<ReadableStream<UiChunk>> => {
    const key = newKey();
    const job = this.#jobOf(chat.messages);
    this.#keep(chat.chatId, { key, job });
    return this.#stream(chat, (signal) => this.#client.run(job, { key, signal }));
  };

  /** Reads the run that the chat was left with, from its first event; null when there is none. */
  readonly reconnectToStream = async (chat: Chat): Promise<ReadableStream<UiChunk> | null> => {
    const { runId, key, job } = this.#recall(chat.chatId);
    if (runId !== undefined) return this.#stream(chat, (signal) => this.#client.follow(runId, { signal }));
    if (job !== undefined) return this.#stream(chat, (signal) => this.#client.run(job, { key, signal }));
    return null;
  };

  /** A run's chunks. Its id is kept until it has ended; when the chat asks to stop, the run is cancelled. */
  #stream({ chatId, abortSignal }: Chat, open: (signal: AbortSignal) => RunStream): ReadableStream<UiChunk> {
    return uiMessageStream((left) => {
      const reading = new AbortController();
      const events = open(reading.signal);
      // The stream is closed before the run is cancelled: of the six connections of HTTP/1.1 it may hold the last.
      // Without an id there is nothing to cancel yet: the first event brings it.
      const leave = (): void => {
        if (abortSignal?.aborted !== true) return reading.abort();
        if (events.runId === undefined || reading.signal.aborted) return;
        reading.abort();
        this.#keep(chatId, undefined);
        void this.#client.cancel(events.runId).catch(() => undefined);
      };
      const see = (event: RunEvent): void => {
        if (event.type === "done" || (event.type === "error" && event.code !== "stream_lost")) this.#keep(chatId, undefined);
        else if (event.seq === 1) this.#keep(chatId, { runId: event.run_id });
        if (left.aborted) leave();
      };
      const fail = (error: unknown): void => {
        if (error instanceof RunRefusedError && !error.passing) this.#keep(chatId, undefined); // no run is to be found
      };
      abortSignal?.addEventListener("abort", leave, { once: true });
      left.addEventListener("abort", leave, { once: true });
      return watched(events, see, fail);
    });
  }

  #keep(chatId: string, what: Remembered | undefined): void {
    try {
      if (what === undefined) this.#memory?.removeItem(`workbench:chat:${chatId}`);
      else this.#memory?.setItem(`workbench:chat:${chatId}`, JSON.stringify(what));
    } catch {
      // full, or forbidden: then a page that is loaded again does not find the run
    }
  }

  #recall(chatId: string): Remembered {
    try {
      const found: unknown = JSON.parse(this.#memory?.getItem(`workbench:chat:${chatId}`) ?? "{}");
      return typeof found === "object" && found !== null ? found : {};
    } catch {
      return {};
    }
  }
}

/** The same events, each of which `see` is told before its reader has it, and `fail` what they end with instead. */
function watched(events: RunStream, see: (event: RunEvent) => void, fail: (error: unknown) => void): RunStream {
  return {
    key: events.key,
    get runId() {
      return events.runId;
    },
    get lastSeq() {
      return events.lastSeq;
    },
    async *[Symbol.asyncIterator]() {
      try {
        for await (const event of events) {
          see(event);
          yield event;
        }
      } catch (error) {
        fail(error);
        throw error;
      }
    },
  };
}
