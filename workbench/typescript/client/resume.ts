/**
 * The events of one run over as many connections as it takes: none is lost, and none comes twice.
 *
 * The client in the browser and the route handlers of the server both read by it. It knows numbers of events and the
 * text of their data, and nothing of what they mean but that `done` and `error` are the last.
 */
import { HEARTBEAT_S } from "./constants";
import { RunRefusedError, StreamLostError, refusalOf, unreachable } from "./errors";
import { SseParser, type Message } from "./sse";

/** One event: its number, its type, and its data as JSON. `seq` is undefined for an error that a hop has added. */
export interface Frame {
  readonly seq: number | undefined;
  readonly type: string;
  readonly data: string;
}

/** Asks for the events behind event number `after`; the signal ends the call and its answer. */
export type Open = (after: number, signal: AbortSignal) => Promise<Response>;

/** How long is waited for what. */
export interface Patience {
  /** Milliseconds without a byte, heartbeats included, until a connection counts as broken. */
  readonly silenceMs: number;
  /** Milliseconds for an answer to begin: Modal gives a function 150 s to start. */
  readonly answerMs: number;
  /** Milliseconds for which a run whose connection has broken is asked for again. */
  readonly patienceMs: number;
}

export const PATIENCE: Patience = {
  silenceMs: Math.max(3 * HEARTBEAT_S, 15) * 1000,
  answerMs: 160_000,
  patienceMs: 60_000,
};

const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5_000;
const LIVED_MS = 15_000; // a connection that has lasted so long has worked: the next break is a new one

/** The events that arrive together, an empty list for heartbeats, up to the run's last event. */
export class Frames implements AsyncIterable<readonly Frame[]> {
  /** The number of the last event that came. */
  lastSeq: number;
  /** Whether the run's last event has come, or the endpoint said that there is nothing more. */
  ended = false;
  /** The run's id, once an answer has told it. */
  runId: string | undefined;
  readonly #open: Open;
  readonly #signal: AbortSignal | undefined;
  readonly #patience: Patience;
  readonly #onBreak: ((reason: string) => void) | undefined;
  #connection: Connection | undefined;

  /** `after` is the number of the last event that the reader has; `onBreak` is told why a connection has broken. */
  constructor(
    open: Open,
    options: {
      after?: number | undefined;
      signal?: AbortSignal | undefined;
      patience?: Partial<Patience> | undefined;
      onBreak?: ((reason: string) => void) | undefined;
    } = {},
  ) {
    this.#open = open;
    this.lastSeq = options.after ?? 0;
    this.#signal = options.signal;
    this.#patience = { ...PATIENCE, ...options.patience };
    this.#onBreak = options.onBreak;
  }

  /** Makes one attempt to connect. Throws RunRefusedError; a run that has nothing more has `ended` after it. */
  async connect(): Promise<void> {
    this.#signal?.throwIfAborted();
    const connection = new Connection(this.#signal, this.#patience);
    try {
      const answer = await connection.begin((signal) => this.#open(this.lastSeq, signal));
      this.runId = answer.headers.get("x-run-id") || this.runId;
      if (answer.status === 204) {
        this.ended = true;
        connection.close();
        return;
      }
      const type = answer.headers.get("content-type") ?? "";
      if (answer.status !== 200) throw await refusalOf(answer);
      if (!type.startsWith("text/event-stream")) {
        throw new RunRefusedError(200, "unreachable", `the answer is no event stream, but ${type || "untyped"}`, false);
      }
      this.#connection = connection;
    } catch (error) {
      connection.close();
      this.#signal?.throwIfAborted();
      throw error instanceof RunRefusedError ? error : unreachable(error);
    }
  }

  /** Iterates once. Throws RunRefusedError, StreamLostError, or what the signal was aborted with. */
  async *[Symbol.asyncIterator](): AsyncGenerator<readonly Frame[], void, undefined> {
    let failingSince: number | undefined;
    let pauses = 0;
    try {
      while (!this.ended) {
        let why: RunRefusedError | string;
        const began = Date.now();
        const had = this.lastSeq;
        try {
          if (this.#connection === undefined) await this.connect();
          yield* this.#read();
          why = "the connection ended before the run";
        } catch (error) {
          this.#signal?.throwIfAborted();
          if (error instanceof RunRefusedError && !error.passing) throw error;
          why = error instanceof RunRefusedError ? error : reasonOf(error);
        } finally {
          this.#connection?.close();
          this.#connection = undefined;
        }
        if (this.ended) return;
        if (this.lastSeq > had || Date.now() - began > LIVED_MS) {
          failingSince = undefined;
          pauses = 0;
        }
        failingSince ??= Date.now();
        const reason = typeof why === "string" ? why : why.message;
        if (Date.now() - failingSince >= this.#patience.patienceMs) {
          throw typeof why !== "string" && this.runId === undefined ? why : new StreamLostError(reason, this.runId, this.lastSeq);
        }
        this.#onBreak?.(reason);
        // Not all readers of an endpoint that was away may come back at the same moment.
        await pause(Math.min(FIRST_PAUSE_MS * 2 ** pauses++, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2), this.#signal);
      }
    } finally {
      this.close();
    }
  }

  /** Closes the connection. The run goes on for its grace period, and longer when somebody else reads it. */
  close(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  async *#read(): AsyncGenerator<readonly Frame[], void, undefined> {
    const connection = this.#connection;
    if (connection === undefined) return;
    for await (const messages of connection.messages()) {
      const fresh: Frame[] = [];
      let gap: Message | undefined;
      for (const message of messages) {
        const seq = message.id === undefined ? undefined : Number(message.id);
        if (seq !== undefined && !(seq <= this.lastSeq + 1)) {
          gap = message;
          break;
        }
        const frame = this.#accept(message, seq);
        if (frame !== undefined) fresh.push(frame);
        if (this.ended) break;
      }
      yield fresh;
      if (this.ended) return;
      if (gap !== undefined) throw new Error(`event ${gap.id} came after event ${this.lastSeq}`);
    }
  }

  /** An event as it is passed on; nothing for one that came before, and for what is no event of the endpoint's. */
  #accept(message: Message, seq: number | undefined): Frame | undefined {
    if (seq === undefined ? message.event !== "error" : seq <= this.lastSeq) return undefined;
    if (seq !== undefined) this.lastSeq = seq;
    this.ended = message.event === "done" || message.event === "error";
    return { seq, type: message.event, data: message.data };
  }
}

/** One connection, with a watchdog: it is closed when nothing comes for too long. */
export class Connection {
  readonly #abort = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #patience: Patience;
  readonly #onOuter = (): void => this.close();
  #answer: Response | undefined;
  #watchdog: ReturnType<typeof setInterval> | undefined;
  #silent = false;

  constructor(outer: AbortSignal | undefined, patience: Patience) {
    this.#outer = outer;
    this.#patience = patience;
    outer?.addEventListener("abort", this.#onOuter);
  }

  async begin(call: (signal: AbortSignal) => Promise<Response>): Promise<Response> {
    const { answerMs } = this.#patience;
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.close();
    }, answerMs);
    try {
      this.#answer = await call(this.#abort.signal);
      return this.#answer;
    } catch (error) {
      throw late ? new Error(`no answer began within ${answerMs / 1000} s`) : error;
    } finally {
      clearTimeout(timer);
    }
  }

  async *messages(): AsyncGenerator<readonly Message[], void, undefined> {
    const reader = this.#answer?.body?.getReader();
    if (reader === undefined) return;
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // the parser looks for it
    let came: Message[] = [];
    let heard = false;
    const parser = new SseParser(
      (message) => came.push(message),
      () => (heard = true),
    );
    let last = Date.now();
    let waits = false; // a reader that takes its time is no silent connection
    const { silenceMs } = this.#patience;
    this.#watchdog = setInterval(() => {
      if (!waits || Date.now() - last < silenceMs) return;
      this.#silent = true;
      this.close();
    }, silenceMs / 4);
    try {
      for (;;) {
        last = Date.now();
        waits = true;
        const { done, value } = await reader.read();
        waits = false;
        if (done) break;
        parser.push(decoder.decode(value, { stream: true }));
        if (came.length === 0 && !heard) continue;
        const messages = came;
        came = [];
        heard = false;
        yield messages;
      }
    } catch (error) {
      throw this.#silent ? new Error(`nothing came for ${silenceMs / 1000} s, not even a heartbeat`) : error;
    } finally {
      clearInterval(this.#watchdog);
      await reader.cancel().catch(() => undefined);
    }
  }

  /** Closes it, also when nobody reads on: who has left in the middle leaves no timer behind. */
  close(): void {
    clearInterval(this.#watchdog);
    this.#outer?.removeEventListener("abort", this.#onOuter);
    this.#abort.abort();
  }
}

/** Waits; throws what the signal was aborted with as soon as it is. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : "the connection broke";
}
