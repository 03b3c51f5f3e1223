/** What can go wrong with a call, as errors whose fields say what to do. No error holds a secret. */
import type { ErrorCode, Refusal } from "./contract";

const MAX_REFUSAL_BYTES = 64 * 1024;
/** Statuses of hops and of an endpoint that is being replaced: the same request may find it well again. */
const PASSING = new Set([408, 425, 500, 502, 503, 504]);

/** A request was refused before any event; nothing was started, and nothing was changed. */
export class RunRefusedError extends Error {
  override readonly name = "RunRefusedError";
  /** The HTTP status; 0 when there was no answer. */
  readonly status: number;
  /** A code of the table, or `unreachable` when nobody of ours has answered. */
  readonly code: ErrorCode | "unreachable";
  /** Whether the same request may succeed later. */
  readonly recoverable: boolean;
  /** The run that it is about, if it is about one. */
  readonly runId: string | undefined;

  constructor(status: number, code: ErrorCode | "unreachable", message: string, recoverable: boolean, runId?: string) {
    super(message);
    this.status = status;
    this.code = code;
    this.recoverable = recoverable;
    this.runId = runId;
  }

  /** Whether it may be over in seconds, so that the client itself asks again. */
  get passing(): boolean {
    return this.recoverable && (this.status === 0 || PASSING.has(this.status));
  }
}

/** The events of a run stopped before its end and did not come back: how the run ended is not known here. */
export class StreamLostError extends Error {
  override readonly name = "StreamLostError";
  readonly code = "stream_lost";
  readonly recoverable = true;

  constructor(
    reason: string,
    readonly runId: string | undefined,
    readonly lastSeq: number,
  ) {
    super(`the stream was lost after event ${lastSeq}: ${reason}`);
  }
}

/** The error for a call that got no answer. */
export function unreachable(cause: unknown): RunRefusedError {
  const reason = cause instanceof Error ? cause.message : "the call failed";
  return new RunRefusedError(0, "unreachable", `there was no answer: ${reason}`, true);
}

/** The error that an answer stands for, when it is neither a stream nor a result. Reads at most 64 KiB of it. */
export async function refusalOf(answer: Response): Promise<RunRefusedError> {
  const { status } = answer;
  const told = parsed(await beginning(answer));
  if (told !== undefined) {
    return new RunRefusedError(status, told.code, told.error, told.recoverable === true, told.run_id);
  }
  if (status === 0 || (status >= 300 && status < 400)) {
    const message = "the answer leads elsewhere, and a redirected POST would become a GET: correct the address";
    return new RunRefusedError(status, "unreachable", message, false);
  }
  return new RunRefusedError(status, "unreachable", `the answer was HTTP ${status}, and not of the endpoint`, PASSING.has(status));
}

function parsed(text: string): Refusal | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return undefined;
    const { code, error } = value as Partial<Refusal>;
    return typeof code === "string" && typeof error === "string" ? (value as Refusal) : undefined;
  } catch {
    return undefined;
  }
}

async function beginning(answer: Response): Promise<string> {
  const reader = answer.body?.getReader();
  if (reader === undefined) return "";
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (let bytes = 0; bytes < MAX_REFUSAL_BYTES; ) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes += value.byteLength;
      text += decoder.decode(value, { stream: true });
    }
  } catch {
    // the part that has come is used
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  return text;
}
