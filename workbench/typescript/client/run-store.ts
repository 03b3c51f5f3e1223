/**
 * One run as a page shows it: it survives a reload of the page, and knows how to stop. It needs no framework; the hook
 * in `use-run.ts` is a thin layer over it.
 *
 * The run's key and job are kept before it is asked for, and its id as soon as it is known. So a page that is loaded
 * again finds its run at whatever moment it left: with the key before the first answer, with the id behind it.
 */
import { newKey, RunRefusedError, StreamLostError, type Client, type RunStream } from "./client";
import type { JobInput, RunEnd, RunEvent } from "./contract";
import { Conversation, type Part } from "./conversation";

export type RunPhase = "idle" | "starting" | "running" | "reconnecting" | "stopping" | "done" | "failed";

/** Why a run failed, was refused, or is not seen any more. */
export interface RunProblem {
  readonly code: string;
  readonly message: string;
  /** Whether `retry` may help. */
  readonly recoverable: boolean;
  /** The run that it is about: for `project_busy`, the one that holds the project. */
  readonly runId: string | undefined;
}

/** What a page shows; a new object whenever something has changed. */
export interface RunView {
  readonly phase: RunPhase;
  readonly runId: string | undefined;
  readonly events: readonly RunEvent[];
  readonly parts: readonly Part[];
  /** What the run does now, in words. */
  readonly status: string;
  /** The event that has ended the run. */
  readonly end: RunEnd | undefined;
  readonly problem: RunProblem | undefined;
}

/** The part of `sessionStorage` that is used. */
export type Memory = Pick<Storage, "getItem" | "setItem" | "removeItem">;

/** Where a page keeps its runs over a reload, each tab for itself; nothing on a server, and where the browser forbids it. */
export function pageMemory(): Memory | undefined {
  try {
    return typeof window === "undefined" ? undefined : window.sessionStorage;
  } catch {
    return undefined; // even to ask throws
  }
}

interface Remembered {
  readonly key?: string;
  readonly job?: JobInput;
  readonly runId?: string;
}

const FRAME_MS = 16; // events that come faster than pages are drawn are shown together
const IDLE: RunView = { phase: "idle", runId: undefined, events: [], parts: [], status: "", end: undefined, problem: undefined };

export class RunStore {
  readonly #client: Client;
  readonly #memory: Memory | undefined;
  readonly #name: string;
  readonly #listeners = new Set<() => void>();
  #view: RunView = IDLE; // what is the case
  #drawn: RunView = IDLE; // what listeners were last told
  #events: RunEvent[] = [];
  #conversation = new Conversation();
  #remembered: Remembered = {};
  #reading: AbortController | undefined;
  #lastSeq = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #shownAt = 0;

  /** `name` distinguishes the runs of one page; `memory` is where it keeps them over a reload. */
  constructor(client: Client, name: string, memory: Memory | undefined) {
    this.#client = client;
    this.#name = `workbench:${name}`;
    this.#memory = memory;
  }

  readonly getSnapshot = (): RunView => this.#drawn;
  readonly getServerSnapshot = (): RunView => IDLE;

  /** Calls `listener` after each change, until the function that is returned is called. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Starts to read the run that this page was left with, if there is one; the function returned ends the reading. */
  readonly attach = (): (() => void) => {
    const found = this.#recall();
    if (found.runId !== undefined || found.key !== undefined) {
      this.#begin(found);
      void this.#read();
    }
    return () => this.#leave();
  };

  /** Starts a run. While one is going on, nothing happens: a double click is one click. */
  readonly start = (job: JobInput): void => {
    if (this.#busy) return;
    this.#begin({ key: newKey(), job });
    this.#keep();
    void this.#read();
  };

  /**
   * The same job once more, as a new run: with the old key it would only be told how the old one ended. A run that is
   * only not seen any more, and may go on, is read again instead.
   */
  readonly retry = (): void => {
    const { job, runId } = this.#remembered;
    if (this.#view.problem?.code === "stream_lost" && runId !== undefined) {
      this.#begin(this.#remembered);
      void this.#read();
    } else if (job !== undefined) {
      this.start(job);
    }
  };

  /** Reads a run that was started elsewhere: in another tab, or before. */
  readonly follow = (runId: string): void => {
    this.#leave();
    this.#begin({ runId });
    this.#keep();
    void this.#read();
  };

  /**
   * Ends the run itself. To stop reading alone lets it go on for its grace period. The stream is closed first: with
   * HTTP/1.1 a browser has six connections to a server, and when all of them stream, a DELETE would wait for ever.
   */
  readonly stop = async (): Promise<void> => {
    if (!this.#busy || this.#view.phase === "stopping") return;
    this.#show({ phase: "stopping" });
    if (this.#view.runId !== undefined) await this.#cancel(this.#view.runId);
  };

  /** Forgets the run: the page shows none. The run itself goes on for its grace period, when nobody else reads it. */
  readonly clear = (): void => {
    this.#leave();
    this.#remembered = {};
    this.#memory?.removeItem(this.#name);
    this.#begin({}, "idle");
  };

  get #busy(): boolean {
    return ["starting", "running", "reconnecting", "stopping"].includes(this.#view.phase);
  }

  #begin(what: Remembered, phase: RunPhase = "starting"): void {
    this.#remembered = what;
    this.#events = [];
    this.#conversation = new Conversation();
    this.#lastSeq = 0;
    this.#show({ ...IDLE, phase, runId: what.runId });
  }

  /** Reads the run to its end, from behind the last event that is known. */
  async #read(): Promise<void> {
    const reading = new AbortController();
    this.#reading?.abort();
    this.#reading = reading;
    const { signal } = reading;
    const onBreak = (reason: string): void => {
      if (!signal.aborted && this.#view.phase !== "stopping") this.#show({ phase: "reconnecting", status: reason });
    };
    const { runId, key, job } = this.#remembered;
    let stream: RunStream | undefined;
    try {
      if (runId !== undefined) stream = this.#client.follow(runId, { after: this.#lastSeq, signal, onBreak });
      else if (job !== undefined) stream = this.#client.run(job, { key, signal, onBreak });
      if (stream === undefined) return this.#show({ phase: "idle" });
      for await (const event of stream) {
        if (signal.aborted) return;
        this.#lastSeq = stream.lastSeq;
        this.#take(event);
        if (this.#view.phase === "stopping" && event.seq === 1) void this.#cancel(event.run_id);
      }
      if (this.#busy && !signal.aborted) this.#show({ phase: this.#view.end === undefined ? "idle" : "done" });
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
  }

  #take(event: RunEvent): void {
    this.#events.push(event);
    this.#conversation.add(event);
    const stops = this.#view.phase === "stopping";
    const change: Partial<RunView> = { runId: event.run_id || this.#view.runId, phase: stops ? "stopping" : "running" };
    if (event.type === "status") Object.assign(change, { status: event.message });
    if (event.type === "done") Object.assign(change, { end: event, phase: "done", status: "" });
    if (event.type === "error") {
      const { code, message, recoverable, run_id } = event;
      Object.assign(change, { end: event, phase: "failed", problem: { code, message, recoverable, runId: run_id } });
    }
    if (event.run_id && this.#remembered.runId !== event.run_id) {
      this.#remembered = { ...this.#remembered, runId: event.run_id };
      this.#keep();
    }
    this.#show(change);
  }

  async #cancel(runId: string): Promise<void> {
    this.#leave();
    try {
      await this.#client.cancel(runId);
      await this.#read(); // the rest of the events, and how the run has ended
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    const known = error instanceof RunRefusedError || error instanceof StreamLostError;
    const problem = known
      ? { code: error.code, message: error.message, recoverable: error.recoverable, runId: error.runId }
      : { code: "internal", message: error instanceof Error ? error.message : "the run failed", recoverable: false, runId: undefined };
    // A run that was refused, or is no longer kept, is not to be found again. One whose answer is missing may be.
    const none = known && (this.#remembered.runId === undefined || ["not_found", "gone"].includes(error.code));
    if (none && error instanceof RunRefusedError && !error.passing) this.#memory?.removeItem(this.#name);
    this.#show({ phase: "failed", problem });
  }

  #leave(): void {
    this.#reading?.abort();
    this.#reading = undefined;
  }

  /** Changes the view. Listeners are called at once, and then at most once for each frame of a screen. */
  #show(change: Partial<RunView>): void {
    this.#view = { ...this.#view, ...change };
    const wait = this.#view.phase === this.#drawn.phase ? this.#shownAt + FRAME_MS - Date.now() : 0;
    if (wait <= 0) this.#draw();
    else this.#timer ??= setTimeout(this.#draw, wait);
  }

  readonly #draw = (): void => {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#shownAt = Date.now();
    this.#drawn = { ...this.#view, events: [...this.#events], parts: this.#conversation.parts };
    for (const listener of this.#listeners) listener();
  };

  #keep(): void {
    try {
      this.#memory?.setItem(this.#name, JSON.stringify(this.#remembered));
    } catch {
      // full, or forbidden: then only this page knows the run
    }
  }

  #recall(): Remembered {
    try {
      const found: unknown = JSON.parse(this.#memory?.getItem(this.#name) ?? "{}");
      return typeof found === "object" && found !== null ? found : {};
    } catch {
      return {};
    }
  }
}
