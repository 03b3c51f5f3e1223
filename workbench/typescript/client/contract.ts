/**
 * The contract's types as an application uses them. `generate.d.ts` is made from the models that parse requests and
 * write events; here stands what its generator cannot say.
 */
import type * as made from "./generate";

export type * from "./generate";

/** Output of the job: words, or a line of the Claude CLI. A newer CLI may write lines of other kinds: skip those. */
export type RunStreamEvent = Omit<made.RunStreamEvent, "message"> & { message?: made.ClaudeMessage };

/** One event of a run. It ends with exactly one `done` or `error`. */
export type RunEvent = made.RunStatusEvent | RunStreamEvent | made.RunDoneEvent | made.RunErrorEvent;

/** The last event of a run. */
export type RunEnd = made.RunDoneEvent | made.RunErrorEvent;

/** `Omit` for each member of a union on its own: the plain one keeps only the fields that all of them share. */
export type Without<Union, Field extends PropertyKey> = Union extends unknown ? Omit<Union, Field> : never;

/** What a user asks for. Whose run it is, and in which project, the server knows from the session. */
export type JobInput = Without<made.GenerateRequest, "user_id" | "project_id">;

/** The user who is signed in and the project that the request is for, as the server knows them. */
export type Owner = Pick<made.GenerateRequest, "user_id" | "project_id">;
