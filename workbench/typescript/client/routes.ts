/**
 * Route handlers for Next.js: the application's own door to the endpoint, which alone holds its secret.
 *
 * Whose run it is comes from `authorize`, never from the request's body. What the endpoint answers goes to the browser
 * as it comes, at the browser's pace; when the endpoint is lost, the stream ends in one `error` event.
 */
import { newKey } from "./client";
import { KEY_HEADER, MAX_BODY_BYTES, RUN_HEADER, SECRET_HEADER } from "./constants";
import type { ErrorCode, JobInput, Owner, Refusal, RunEnd } from "./contract";
import { RunRefusedError, refusalOf, unreachable } from "./errors";
import { Connection, Frames, PATIENCE, type Frame, type Patience } from "./resume";

declare const process: { readonly env: Record<string, string | undefined> };

export interface RoutesOptions {
  /**
   * Who is signed in, and the project that the request is for; null when nobody is. The project's id may come from the
   * address or from a header, when it was checked that it is this user's.
   */
  readonly authorize: (request: Request) => Promise<Owner | null> | Owner | null;
  /** Which jobs this user may start, and how: the job to run, perhaps changed, or null. Without it, every job. */
  readonly accept?: (job: JobInput, owner: Owner) => Promise<JobInput | null> | JobInput | null;
  /** The endpoint's address; else WORKBENCH_URL of the environment. */
  readonly url?: string;
  /** The endpoint's secret; else WORKBENCH_SECRET of the environment. */
  readonly secret?: string;
  /** Of a request, at most; the endpoint's own limit is the default. */
  readonly maxBodyBytes?: number;
  readonly patience?: Partial<Patience>;
  readonly fetch?: typeof fetch;
  /** Is told what the user is not: that the endpoint is away, or that its secret is wrong. */
  readonly log?: (message: string) => void;
}

/** What Next.js hands to the handlers of `[runId]/route.ts`. */
export interface RunContext {
  readonly params: Promise<{ readonly runId: string }>;
}

export interface RunRoutes {
  /** Starts a run and streams its events; with the Idempotency-Key of a run that was started, joins it. */
  POST(request: Request): Promise<Response>;
  /** Streams a run from its first event, or from behind `Last-Event-ID`. */
  GET(request: Request, context: RunContext): Promise<Response>;
  /** Ends a run. */
  DELETE(request: Request, context: RunContext): Promise<Response>;
}

const STREAMED = {
  "Content-Type": "text/event-stream; charset=utf-8",
  "Cache-Control": "no-cache, no-transform", // what compresses a stream may hold it back
  "X-Accel-Buffering": "no",
};
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const SEQ = /^[0-9]{1,15}$/;
const HEARTBEAT = ": heartbeat\n\n";
/** Shorter than a reader's watchdog, so that the reader is told before it breaks off itself. */
const PATIENCE_MS = 20_000;
const NO_RUN = "there is no such run: the id is not known here, or the run is another user's";

/** The handlers for `app/api/runs/route.ts` (`POST`) and `app/api/runs/[runId]/route.ts` (`GET`, `DELETE`). */
export function createRunRoutes(options: RoutesOptions): RunRoutes {
  const patience = { ...PATIENCE, patienceMs: PATIENCE_MS, ...options.patience };
  const log = options.log ?? ((message: string) => console.error(`workbench: ${message}`));
  const limit = options.maxBodyBytes ?? MAX_BODY_BYTES;

  async function call(path: string, init: RequestInit): Promise<Response> {
    const url = options.url ?? process.env["WORKBENCH_URL"];
    const secret = options.secret ?? process.env["WORKBENCH_SECRET"];
    if (!url || !secret) throw misconfigured("WORKBENCH_URL and WORKBENCH_SECRET are not both set");
    const send = options.fetch ?? fetch;
    const answer = await send(`${url.replace(/\/+$/, "")}/generate${path}`, {
      ...init,
      headers: { ...(init.headers as Record<string, string>), [SECRET_HEADER]: secret },
      cache: "no-store",
      redirect: "manual",
    });
    if (answer.status !== 401) return answer;
    await answer.body?.cancel();
    throw misconfigured("the endpoint does not take the secret of WORKBENCH_SECRET: see `workbench endpoint --json`");
  }

  /** The application is set up wrongly: its log says how, its users only that it is. */
  function misconfigured(why: string): RunRefusedError {
    log(why);
    return new RunRefusedError(500, "internal", "this application is not set up to run jobs", false);
  }

  async function owner(request: Request): Promise<Owner> {
    const found = await options.authorize(request);
    if (found === null) throw new RunRefusedError(401, "unauthorized", "sign in first", false);
    const { user_id, project_id } = found;
    if (UUID.test(user_id) && UUID.test(project_id)) return { user_id, project_id };
    throw misconfigured("authorize gave a user_id or project_id that is no lower-case UUID");
  }

  /** A request's job. Throws RunRefusedError when it is none, too large, or names its owner itself. */
  async function jobOf(request: Request, of: Owner): Promise<JobInput> {
    // A page of another site can send no JSON without asking first, and is not answered when it asks.
    if (!/^application\/json\b/i.test(request.headers.get("content-type") ?? "")) {
      throw refused(400, "invalid_request", "the body must be JSON, with Content-Type: application/json");
    }
    let job: unknown;
    try {
      job = JSON.parse(await bounded(request, limit));
    } catch (error) {
      if (error instanceof RunRefusedError) throw error;
      throw refused(400, "invalid_request", "the body is not JSON");
    }
    if (typeof job !== "object" || job === null || Array.isArray(job)) {
      throw refused(400, "invalid_request", "the body must be one JSON object");
    }
    for (const field of ["user_id", "project_id"]) {
      if (field in job) throw refused(400, "invalid_request", `${field}: the session says it, leave it out`);
    }
    const accepted = options.accept === undefined ? (job as JobInput) : await options.accept(job as JobInput, of);
    if (accepted === null) throw refused(403, "permission_denied", "this application does not run such a job for you");
    return accepted;
  }

  async function POST(request: Request): Promise<Response> {
    return answered(request, async (of, leaving) => {
      const body = JSON.stringify({ ...(await jobOf(request, of)), ...of });
      const key = request.headers.get(KEY_HEADER) ?? newKey();
      const headers = { Accept: "text/event-stream", "Content-Type": "application/json", [KEY_HEADER]: key };
      const frames: Frames = new Frames(
        (after, signal) =>
          frames.runId === undefined
            ? call("", { method: "POST", headers: { ...headers, ...behind(after) }, body, signal })
            : resumed(frames.runId, of, after, signal),
        { after: afterOf(request), signal: leaving.signal, patience },
      );
      return streamed(frames, leaving);
    });
  }

  async function GET(request: Request, context: RunContext): Promise<Response> {
    return answered(request, async (of, leaving) => {
      // Next.js gives HEAD to this handler, too: a stream that nobody takes would be a reader for whom the run goes on.
      if (request.method !== "GET") throw refused(405, "method_not_allowed", "only GET, DELETE and POST are answered here");
      const runId = await runOf(context);
      const frames = new Frames((after, signal) => resumed(runId, of, after, signal), {
        after: afterOf(request),
        signal: leaving.signal,
        patience,
      });
      return streamed(frames, leaving);
    });
  }

  async function DELETE(request: Request, context: RunContext): Promise<Response> {
    return answered(request, async (of, leaving) => {
      const runId = await runOf(context);
      const connection = new Connection(leaving.signal, patience);
      try {
        const answer = await connection.begin((signal) => call(about(runId, of), { method: "DELETE", signal }));
        if (answer.status !== 200) throw await refusalOf(answer);
        return json(200, await answer.json());
      } finally {
        connection.close();
      }
    });
  }

  function resumed(runId: string, of: Owner, after: number, signal: AbortSignal): Promise<Response> {
    return call(about(runId, of), { headers: { Accept: "text/event-stream", ...behind(after) }, signal });
  }

  /** Answers, and turns what goes wrong before the answer into a refusal that holds nothing of the endpoint's. */
  async function answered(
    request: Request,
    answer: (of: Owner, leaving: AbortController) => Promise<Response>,
  ): Promise<Response> {
    const leaving = new AbortController();
    const leave = (): void => leaving.abort();
    request.signal.addEventListener("abort", leave);
    if (request.signal.aborted) leave();
    let of: Owner | undefined;
    try {
      of = await owner(request);
      return await answer(of, leaving);
    } catch (error) {
      if (of === undefined && !(error instanceof RunRefusedError)) throw error; // the application's own
      if (leaving.signal.aborted) return new Response(null, { status: 499 });
      const found = shown(error instanceof RunRefusedError ? error : unreachable(error));
      return json(found.status, refusal(found));
    }
  }

  /** What a user is told of an error: of one between this server and the endpoint only that there is one. */
  function shown(error: RunRefusedError): RunRefusedError {
    if (error.code !== "unreachable") return error;
    log(error.message);
    return refused(502, "internal", "the endpoint that runs jobs does not answer as it should", error.recoverable);
  }

  async function streamed(frames: Frames, leaving: AbortController): Promise<Response> {
    await frames.connect();
    const about: Record<string, string> = frames.runId === undefined ? {} : { [RUN_HEADER]: frames.runId };
    if (frames.ended) return new Response(null, { status: 204, headers: { ...about, "Cache-Control": "no-store" } });
    const batches = frames[Symbol.asyncIterator]();
    const encoder = new TextEncoder();
    let last: Frame | undefined;
    const body = new ReadableStream<Uint8Array>(
      {
        // Only when the browser has taken what came before: a paused browser pauses the endpoint, too.
        async pull(controller) {
          try {
            const { done, value } = await batches.next();
            if (done === true) return controller.close();
            last = value.at(-1) ?? last;
            controller.enqueue(encoder.encode(value.length === 0 ? HEARTBEAT : value.map(text).join("")));
          } catch (error) {
            if (leaving.signal.aborted) return;
            controller.enqueue(encoder.encode(text(lost(error, frames, last))));
            controller.close();
          }
        },
        async cancel() {
          leaving.abort();
          await batches.return(undefined).catch(() => undefined);
        },
      },
      { highWaterMark: 0 },
    );
    return new Response(body, { headers: { ...STREAMED, ...about } });
  }

  /** The event that ends a stream whose run goes on unseen. It has no number, so that a reader can still resume. */
  function lost(error: unknown, frames: Frames, last: Frame | undefined): Frame {
    const told = error instanceof RunRefusedError ? shown(error) : undefined;
    if (told === undefined) log(error instanceof Error ? error.message : String(error));
    const before = last === undefined ? { at_ms: Date.now(), elapsed_ms: 0 } : (JSON.parse(last.data) as RunEnd);
    const data = {
      type: "error",
      run_id: frames.runId ?? "",
      seq: frames.lastSeq,
      at_ms: Date.now(),
      elapsed_ms: before.elapsed_ms + Math.max(0, Date.now() - before.at_ms),
      code: told?.code ?? "stream_lost",
      message: told?.message ?? "the endpoint was lost; the run may go on there: ask for its events again",
      recoverable: told?.recoverable ?? true,
    };
    return { seq: undefined, type: "error", data: JSON.stringify(data) };
  }

  return { POST, GET, DELETE };
}

function refused(status: number, code: ErrorCode, message: string, recoverable = false): RunRefusedError {
  return new RunRefusedError(status, code, message, recoverable);
}

function refusal(error: RunRefusedError): Refusal {
  const { message, recoverable, runId } = error;
  const told = { error: message, code: error.code as ErrorCode, recoverable };
  return runId === undefined ? told : { ...told, run_id: runId };
}

function json(status: number, value: unknown): Response {
  return Response.json(value, { status, headers: { "Cache-Control": "no-store" } });
}

async function runOf(context: RunContext): Promise<string> {
  const { runId } = await context.params;
  if (!UUID.test(runId)) throw refused(404, "not_found", NO_RUN); // what is no id is nobody's run
  return runId;
}

function about(runId: string, of: Owner): string {
  return `/${runId}?user_id=${of.user_id}`; // the endpoint answers 404 for another user's run
}

function afterOf(request: Request): number {
  const given = request.headers.get("last-event-id") ?? "";
  if (given !== "" && !SEQ.test(given)) {
    throw refused(400, "invalid_request", "Last-Event-ID: must be the id of an event: up to 15 digits");
  }
  return Number(given);
}

function behind(after: number): Record<string, string> {
  return after > 0 ? { "Last-Event-ID": String(after) } : {};
}

function text({ seq, type, data }: Frame): string {
  const lines = data.includes("\n") ? data.replaceAll("\n", "\ndata: ") : data;
  return `${seq === undefined ? "" : `id: ${seq}\n`}event: ${type}\ndata: ${lines}\n\n`;
}

/** The request's body, of which no more is read than allowed. */
async function bounded(request: Request, limit: number): Promise<string> {
  const tooLarge = refused(413, "too_large", `the body is too large: at most ${limit} bytes`);
  const length = request.headers.get("content-length");
  const declared = length !== null && /^[0-9]+$/.test(length) ? Number(length) : undefined;
  if (declared !== undefined && declared > limit) throw tooLarge;
  const reader = request.body?.getReader();
  if (reader === undefined) return "";
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const pieces: string[] = [];
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes += value.byteLength;
    if (bytes > limit) {
      await reader.cancel();
      throw tooLarge;
    }
    pieces.push(decoder.decode(value, { stream: true }));
  }
  if (declared !== undefined && bytes < declared) {
    const message =
      `only ${bytes} of ${declared} bytes have arrived: a proxy.ts in front of this handler cuts bodies ` +
      "unless its experimental.proxyClientMaxBodySize says more";
    throw refused(413, "too_large", message);
  }
  pieces.push(decoder.decode());
  return pieces.join("");
}
