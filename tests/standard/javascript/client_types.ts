// What an application writes with the client: compiled, never run.
import { createClient, newKey, RunRefusedError } from "./workbench/client";
import { ERRORS, HEARTBEAT_S, KEY_HEADER, MAX_BODY_BYTES, SECRET_HEADER } from "./workbench/constants";
import { createRunRoutes } from "./workbench/routes";
import { RunStore } from "./workbench/run-store";
import type {
  ClaudeMessage, ErrorCode, GenerateRequest, JobInput, RunEnd, RunEvent, RunStreamEvent,
} from "./workbench/contract";

export const jobs: JobInput[] = [
  { prompt: "a page" },
  { prompt: "a page", max_turns: 3, allowed_tools: ["Bash"] },
  { action: "python", code: "print(1)" },
  { action: "python", path: "main.py" },
  { action: "git", op: "restore", commit: "HEAD", paths: ["a"] },
  { action: "files", op: "write", files: [{ path: "a", content: "b", encoding: "base64" }] },
  { action: "prewarm", with_model: true },
  // @ts-expect-error a program is code or a file
  { action: "python" },
  // @ts-expect-error not both
  { action: "python", code: "1", path: "main.py" },
  // @ts-expect-error a prompt is needed
  { model: "m" },
  // @ts-expect-error whose run it is, the session says
  { prompt: "a page", user_id: "6f9619ff-8b86-4d01-b42d-00c04fc964ff" },
  // @ts-expect-error and in which project
  { action: "git", op: "init", project_id: "6f9619ff-8b86-4d01-b42d-00c04fc964ff" },
  // @ts-expect-error an operation of another action
  { action: "files", op: "commit", message: "m" },
  // @ts-expect-error a field of another operation
  { action: "git", op: "log", message: "m" },
];

// A plain `Omit` of the union would keep four fields and allow whatever stands here.
export const narrowed = (job: Extract<JobInput, { action: "git"; op: "diff" }>): string | undefined => job.base;

export function length(event: RunStreamEvent): number {
  return event.text.length; // always there
}

export function told(message: ClaudeMessage): string {
  switch (message.type) {
    case "assistant":
      return message.message.content
        .map((block) => {
          switch (block.type) {
            case "text":
              return block.text;
            case "thinking":
              return block.thinking;
            case "tool_use":
              return `${block.name} ${JSON.stringify(block.input)}`;
          }
        })
        .join("");
    case "user": {
      const { content } = message.message;
      if (typeof content === "string") return content;
      const subagent: string | null = message.parent_tool_use_id;
      return `${subagent} ${content.map((block) => (block.type === "tool_result" ? block.tool_use_id : block.text)).join()}`;
    }
    case "stream_event":
      return message.event.type === "content_block_delta" && message.event.delta.type === "input_json_delta"
        ? message.event.delta.partial_json
        : "";
    case "result":
      return `${message.is_error} ${message.total_cost_usd}`;
    case "system":
      return message.subtype;
    default: {
      const none: never = message;
      return none;
    }
  }
}

export function wrong(message: ClaudeMessage, event: RunEvent, end: RunEnd): unknown[] {
  return [
    // @ts-expect-error only a result tells its cost
    message.total_cost_usd,
    // @ts-expect-error only an error has a code
    end.code,
    // @ts-expect-error the browser's own Event has a target, a run's has none
    event.target,
  ];
}

export const busy: 409 = ERRORS.project_busy.status;
// @ts-expect-error the table says that it is
export const hopeless: false = ERRORS.project_busy.recoverable;
export const each = (code: ErrorCode): boolean => ERRORS[code].recoverable;
export const constants: [number, number, string, string] = [HEARTBEAT_S, MAX_BODY_BYTES, KEY_HEADER, SECRET_HEADER];

export async function use(signal: AbortSignal): Promise<RunEnd | undefined> {
  const client = createClient({ url: "/api/runs" });
  try {
    for await (const event of client.run({ action: "python", code: "1" }, { key: newKey(), signal })) {
      if (event.type === "done" || event.type === "error") return event;
      // @ts-expect-error no end has come yet
      event.exit_code;
    }
    for await (const event of client.follow("id", { after: 3 })) void event.seq;
    const { outcome } = await client.cancel("id");
    return outcome === "done" ? undefined : undefined;
  } catch (error) {
    if (error instanceof RunRefusedError && error.code === "project_busy") void error.runId;
    throw error;
  }
}

export const direct = createClient<GenerateRequest>({ url: "https://a/generate", headers: { [SECRET_HEADER]: "s" } });
// @ts-expect-error the endpoint itself wants to know whose run it is
void (() => direct.run({ prompt: "a page" }));

export const routes = createRunRoutes({
  authorize: (request) => (request.headers.has("cookie") ? { user_id: "a", project_id: "b" } : null),
  accept: (job) => ("prompt" in job ? { ...job, permission_mode: "plan" } : null),
});
// @ts-expect-error who is signed in has to be said
createRunRoutes({});
// @ts-expect-error and in which project
createRunRoutes({ authorize: () => ({ user_id: "a" }) });

export const store = new RunStore(createClient({ url: "/api/runs" }), "editor", undefined);
store.start({ prompt: "a" });
// @ts-expect-error the browser does not say whose run it is
store.start({ prompt: "a", user_id: "b" });
export const tools = store.getSnapshot().parts.flatMap((part) => (part.kind === "tool" ? [part.name] : []));
