"use client";
/**
 * One run in a React component. It survives a reload; `stop` ends the run itself.
 *
 *     const run = useRun("editor");
 *     <button onClick={() => run.start({ prompt })} />  <button onClick={() => run.stop()} />
 *     {run.parts.map(…)}
 */
import { useEffect, useMemo, useSyncExternalStore } from "react";
import { createClient, type Client } from "./client";
import { pageMemory, RunStore, type RunView } from "./run-store";

export type { Part } from "./conversation";
export type { RunPhase, RunProblem, RunView } from "./run-store";

/** What a page shows, and what its user can do. */
export type UseRun = RunView & Pick<RunStore, "start" | "retry" | "follow" | "stop" | "clear">;

/**
 * The run with this name; with another name, another run. They are kept in `sessionStorage`: each tab has its own.
 *
 * `client` calls the route handlers below `/api/runs` unless another is given, which must stay the same object.
 */
export function useRun(name: string, client?: Client): UseRun {
  const store = useMemo(
    () => new RunStore(client ?? createClient({ url: "/api/runs" }), name, pageMemory()),
    [client, name],
  );
  useEffect(() => store.attach(), [store]);
  const view = useSyncExternalStore(store.subscribe, store.getSnapshot, store.getServerSnapshot);
  const { start, retry, follow, stop, clear } = store;
  return { ...view, start, retry, follow, stop, clear };
}
