/**
 * Starts, follows and cancels runs. For a browser (through the route handlers in `routes.ts`), for Node.js and for an
 * edge runtime; on a server it can call the endpoint itself.
 */
import type { Cancelled, JobInput, RunEvent } from "./contract";
import { KEY_HEADER } from "./constants";
import { RunRefusedError, StreamLostError, refusalOf, unreachable } from "./errors";
import { Connection, Frames, PATIENCE, pause, type Frame, type Patience } from "./resume";

export * from "./errors";

/** What a client calls, and how. */
export interface ClientOptions {
  /** The address that takes `POST`, and below which each run has its own: `/api/runs`, or `…/generate`. */
  readonly url: string;
  /** Headers of every call. The endpoint's secret belongs here on a server alone, never in a browser. */
  readonly headers?: Readonly<Record<string, string>>;
  /** What is asked in the query of calls about a run: `{ user_id }` for who calls the endpoint itself. */
  readonly query?: Readonly<Record<string, string>>;
  /** In place of the platform's `fetch`. */
  readonly fetch?: typeof fetch;
  readonly patience?: Partial<Patience>;
}

export interface ReadOptions {
  /** Ends the reading. The run itself goes on for its grace period: `cancel` ends a run. */
  readonly signal?: AbortSignal | undefined;
  /** Called when a connection has broken and is made anew. */
  readonly onBreak?: ((reason: string) => void) | undefined;
}

export interface RunOptions extends ReadOptions {
  /** With the same key, the same job joins the run that the first call has started. Each new attempt needs a new one. */
  readonly key?: string | undefined;
}

export interface FollowOptions extends ReadOptions {
  /** The number of the last event that the reader has: only what comes behind it is read. */
  readonly after?: number | undefined;
}

/** The events of one run; iterate it once, to the `done` or `error` that ends it. */
export interface RunStream extends AsyncIterable<RunEvent> {
  /** The key of the request that has started it. */
  readonly key: string | undefined;
  /** The run's id, once an answer has told it. */
  readonly runId: string | undefined;
  /** The number of the last event that was given out: who stops here goes on behind it. */
  readonly lastSeq: number;
}

export interface Client<Job = JobInput> {
  /** Starts a run. A call whose answer is lost is repeated with its key, and so finds its own run. */
  run(job: Job, options?: RunOptions): RunStream;
  /** Reads a run from its first event, or from behind `after`. */
  follow(runId: string, options?: FollowOptions): RunStream;
  /** Ends a run; resolves when its sandbox is gone. A run that has ended stays as it is. */
  cancel(runId: string, options?: { signal?: AbortSignal | undefined }): Promise<Cancelled>;
}

/** A key for one attempt. `crypto.randomUUID` is missing in pages that come by plain HTTP from another machine. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A client of route handlers, or with `Job` as `GenerateRequest` and the secret in its headers, of the endpoint. */
export function createClient<Job = JobInput>(options: ClientOptions): Client<Job> {
  const base = options.url.replace(/\/+$/, "");
  const patience = { ...PATIENCE, ...options.patience };
  const asked = new URLSearchParams(options.query).toString();
  const address = (runId: string): string => `${base}/${encodeURIComponent(runId)}${asked && `?${asked}`}`;

  function call(url: string, init: RequestInit): Promise<Response> {
    const send = options.fetch ?? fetch; // looked up late: applications and tests replace it
    const headers = { ...options.headers, ...(init.headers as Record<string, string>) };
    return send(url, { ...init, headers, cache: "no-store", redirect: "manual" });
  }

  function resumed(runId: string, after: number, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (after > 0) headers["Last-Event-ID"] = String(after);
    return call(address(runId), { headers, signal });
  }

  function run(job: Job, { key = newKey(), ...reading }: RunOptions = {}): RunStream {
    const body = JSON.stringify(job);
    const headers = { Accept: "text/event-stream", "Content-Type": "application/json", [KEY_HEADER]: key };
    const frames: Frames = new Frames(
      (after, signal) =>
        frames.runId === undefined
          ? call(base, { method: "POST", headers, body, signal })
          : resumed(frames.runId, after, signal),
      { ...reading, patience },
    );
    return new Events(frames, key);
  }

  function follow(runId: string, options: FollowOptions = {}): RunStream {
    const frames = new Frames((after, signal) => resumed(runId, after, signal), { ...options, patience });
    frames.runId = runId;
    return new Events(frames, undefined);
  }

  async function cancel(runId: string, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<Cancelled> {
    const until = Date.now() + patience.patienceMs;
    for (;;) {
      try {
        return await cancelOnce(runId, signal);
      } catch (error) {
        signal?.throwIfAborted();
        const refused = error instanceof RunRefusedError ? error : unreachable(error);
        if (!refused.passing || Date.now() >= until) throw refused;
      }
      await pause(1_000, signal);
    }
  }

  async function cancelOnce(runId: string, signal: AbortSignal | undefined): Promise<Cancelled> {
    const connection = new Connection(signal, patience);
    try {
      const answer = await connection.begin((ended) => call(address(runId), { method: "DELETE", signal: ended }));
      if (answer.status !== 200) throw await refusalOf(answer);
      return (await answer.json()) as Cancelled;
    } finally {
      connection.close();
    }
  }

  return { run, follow, cancel };
}

/** Frames as typed events. */
class Events implements RunStream {
  lastSeq: number;
  readonly #frames: Frames;

  constructor(
    frames: Frames,
    readonly key: string | undefined,
  ) {
    this.#frames = frames;
    this.lastSeq = frames.lastSeq;
  }

  get runId(): string | undefined {
    return this.#frames.runId;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RunEvent, void, undefined> {
    for await (const batch of this.#frames) {
      for (const frame of batch) {
        this.lastSeq = frame.seq ?? this.lastSeq;
        if (KNOWN.has(frame.type)) yield this.#event(frame);
      }
    }
  }

  #event(frame: Frame): RunEvent {
    try {
      const event = JSON.parse(frame.data) as RunEvent;
      if (event.type === frame.type) return event;
    } catch {
      // told below
    }
    throw new StreamLostError(`the data of event ${frame.seq} is not that of an event`, this.runId, this.lastSeq);
  }
}

/** A newer endpoint may have further types of events: they are counted and skipped. */
const KNOWN = new Set(["status", "stream", "done", "error"]);
