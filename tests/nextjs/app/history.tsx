"use client";
import { useEffect, useState } from "react";
import type { UseRun } from "../lib/workbench/use-run";

/** The runs that this browser has started in a project; a click shows one again. */
export function History({ name, run }: { name: string; run: UseRun }) {
  const kept = `history:${name}`;
  const [ids, setIds] = useState<readonly string[]>([]);
  const { runId } = run;
  useEffect(() => {
    const before = JSON.parse(localStorage.getItem(kept) ?? "[]") as string[];
    const now = runId === undefined || before.includes(runId) ? before : [runId, ...before].slice(0, 20);
    localStorage.setItem(kept, JSON.stringify(now));
    setIds(now);
  }, [kept, runId]);
  return (
    <nav aria-label="history">
      {ids.map((id) => (
        <button key={id} type="button" onClick={() => run.follow(id)}>
          {id.slice(0, 8)}
        </button>
      ))}
    </nav>
  );
}
