"use client";
import { useEffect, useState } from "react";
import { createClient } from "../lib/workbench/client";
import type { JobInput } from "../lib/workbench/contract";
import { useRun, type Part } from "../lib/workbench/use-run";
import { Files } from "./files";
import { History } from "./history";

/** A prompt, and its run as it goes. */
export function RunPane({ name, shared }: { name: string; shared: string | undefined }) {
  const [client] = useState(() => createClient({ url: "/api/runs", headers: { "X-Project": name } }));
  const run = useRun(name, client);
  const [prompt, setPrompt] = useState("");
  const [action, setAction] = useState<"claude" | "python">("claude");
  const [ready, setReady] = useState(false); // what is written before React has the page would be lost
  useEffect(() => setReady(true), []);
  const { follow } = run;
  useEffect(() => {
    if (shared !== undefined) follow(shared);
  }, [shared, follow]);

  const job: JobInput = action === "python" ? { action, code: prompt } : { prompt };
  const busy = !["idle", "done", "failed"].includes(run.phase);
  return (
    <section aria-label={name}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          run.start(job);
        }}
      >
        <select
          aria-label="action"
          disabled={!ready}
          value={action}
          onChange={(event) => setAction(event.target.value as typeof action)}
        >
          <option value="claude">Claude</option>
          <option value="python">Python</option>
        </select>
        <textarea
          aria-label="prompt"
          rows={3}
          cols={60}
          disabled={!ready}
          value={prompt}
          onChange={(event) => setPrompt(event.target.value)}
        />
        <button type="submit" disabled={!ready}>
          Run
        </button>
        <button type="button" disabled={!busy} onClick={() => void run.stop()}>
          Stop
        </button>
        <button type="button" disabled={busy || !run.problem?.recoverable} onClick={run.retry}>
          Again
        </button>
      </form>
      <p>
        <output aria-label="phase">{run.phase}</output> <span>{run.status}</span>
      </p>
      {run.problem !== undefined && (
        <p role="alert">
          {run.problem.code}: {run.problem.message}
        </p>
      )}
      <div aria-label="parts">
        {run.parts.map((part) => (
          <Shown key={part.id} part={part} />
        ))}
      </div>
      <data aria-label="numbers" value={run.events.map(({ seq }) => seq).join(" ")} />
      <data aria-label="run id" value={run.runId ?? ""} />
      <Files client={client} changed={run.end?.seq} />
      <History name={name} run={run} />
    </section>
  );
}

function Shown({ part }: { part: Part }) {
  switch (part.kind) {
    case "output":
      return <pre data-kind={part.channel}>{part.text}</pre>;
    case "text":
    case "thinking":
      return (
        <p data-kind={part.kind} data-subagent={part.subagent}>
          {part.text}
        </p>
      );
    case "tool":
      return (
        <details data-kind="tool" data-failed={part.failed}>
          <summary>
            {part.name} {part.result === undefined ? "…" : part.failed ? "✗" : "✓"}
          </summary>
          <pre>{part.input}</pre>
          <pre>{part.result}</pre>
        </details>
      );
  }
}
