// What a Next.js server writes against the contract: compiled, never run.
import type {
  Cancelled, ErrorCode, ErrorTable, FailedRun, GenerateRequest, operations, Refusal, RunEvent,
} from "./generate";

const ids = { user_id: "6f9619ff-8b86-4d01-b42d-00c04fc964ff", project_id: "7f9619ff-8b86-4d01-b42d-00c04fc964ff" };

export const requests: GenerateRequest[] = [
  { ...ids, prompt: "a page" },
  { ...ids, action: "python", code: "print(1)", timeout_s: 60, wait_s: 5 },
  { ...ids, action: "git", op: "log", limit: 3 },
  { ...ids, action: "files", op: "write", files: [{ path: "a.txt", content: "a" }] },
  { ...ids, action: "prewarm" },
  // @ts-expect-error a program needs its action
  { ...ids, code: "print(1)" },
  { ...ids, action: "python", path: "main.py", args: ["1"] },
  // @ts-expect-error a program is code or a file: here is none
  { ...ids, action: "python", args: ["1"] },
  // @ts-expect-error and here are two
  { ...ids, action: "python", code: "print(1)", path: "main.py" },
  // @ts-expect-error there is no such operation
  { ...ids, action: "git", op: "push" },
  // @ts-expect-error a field that nobody knows
  { ...ids, prompt: "a page", colour: "red" },
];

export function tell(event: RunEvent): string {
  switch (event.type) {
    case "status":
      return `${event.phase} after ${event.elapsed_ms.toFixed()} ms`;
    case "stream":
      return event.channel === "claude" ? JSON.stringify(event.message) : event.text;
    case "done":
      return `${event.exit_code} ${event.commit?.committed} ${event.usage?.cost_usd}`;
    case "error": {
      const code: ErrorCode = event.code;
      return event.recoverable ? `${code}: again` : code;
    }
    default: {
      const none: never = event; // the four are all there are
      return none;
    }
  }
}

export function wrong(event: RunEvent): string {
  // @ts-expect-error only an error has a code
  return event.code;
}

export const refused: Refusal = { error: "another run holds the project", code: "project_busy", recoverable: true };
export const ofRun: string | undefined = refused.run_id;
// @ts-expect-error no code of the table
export const unknown: Refusal = { error: "", code: "busy", recoverable: false };
// @ts-expect-error whether to try again is always told
export const untold: Refusal = { error: "", code: "gone" };

export function statusOf(table: ErrorTable, code: ErrorCode): number {
  return table[code].status; // of every code there is
}
export const busy: ErrorTable["project_busy"]["status"] = 409;
// @ts-expect-error the table says that it is
export const hopeless: ErrorTable["project_busy"]["recoverable"] = false;
export const failed = (run: FailedRun): string => `${run.error} ${run.exit_code} ${run.commit?.committed}`;
export const over: Cancelled = { run_id: ids.user_id, cancelled: true, outcome: "cancelled" };
export type Answers = keyof operations["generate"]["responses"];
export const statuses: Answers[] = [200, 400, 401, 405, 409, 413, 429, 503];
