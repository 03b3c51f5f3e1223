"use client";
/**
 * One run in a React component. It survives a reload; `stop` ends the run itself.
 *
 *     const run = useRun("editor");
 *     <button onClick={() => run.start({ prompt })} />  <button onClick={() => run.stop()} />
 *     {run.parts.map(…)}
 */
import { useEffect, useState, useSyncExternalStore } from "react";
import { createClient, type Client } from "./client";
import { pageMemory, RunStore, type RunView } from "./run-store";

export type { Part } from "./conversation";
export type { RunPhase, RunProblem, RunView } from "./run-store";

/** What a page shows, and what its user can do. */
export type UseRun = RunView & Pick<RunStore, "start" | "retry" | "follow" | "stop" | "clear">;

/**
 * The run with this name. Each name of a page has a run of its own, kept in `sessionStorage`: each tab has its own, too.
 *
 * `client` calls the route handlers below `/api/runs` unless another is given, which must stay the same object.
 */
export function useRun(name: string, client?: Client): UseRun {
  const [store] = useState(
    () => new RunStore(client ?? createClient({ url: "/api/runs" }), name, pageMemory()),
  );
  useEffect(() => store.attach(), [store]);
  const view = useSyncExternalStore(store.subscribe, store.getSnapshot, store.getServerSnapshot);
  const { start, retry, follow, stop, clear } = store;
  return { ...view, start, retry, follow, stop, clear };
}
