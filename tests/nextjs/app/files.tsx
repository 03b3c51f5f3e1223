"use client";
import { useState } from "react";
import type { Client } from "../lib/workbench/client";
import type { JobInput } from "../lib/workbench/contract";

interface Listing {
  readonly entries: readonly { readonly path: string; readonly type: string }[];
}

/** The project's files, as the last run has left them. */
export function Files({ client, changed }: { client: Client; changed: number | undefined }) {
  const [paths, setPaths] = useState<readonly string[]>([]);
  const [content, setContent] = useState("");
  const [problem, setProblem] = useState("");

  async function result<Result>(job: JobInput): Promise<Result | undefined> {
    setProblem("");
    try {
      for await (const event of client.run(job)) {
        if (event.type === "error") setProblem(`${event.code}: ${event.message}`);
        if (event.type === "done") return event.result as Result;
      }
    } catch (error) {
      setProblem(String(error));
    }
    return undefined;
  }

  async function list(): Promise<void> {
    const found = await result<Listing>({ action: "files", op: "list" });
    setPaths(found?.entries.filter(({ type }) => type === "file").map(({ path }) => path) ?? []);
  }

  return (
    <fieldset>
      <legend>Files</legend>
      <button type="button" onClick={() => void list()}>
        {changed === undefined ? "List" : "List again"}
      </button>
      {problem !== "" && <p role="alert">{problem}</p>}
      <ul>
        {paths.map((path) => (
          <li key={path}>
            <button
              type="button"
              onClick={async () => setContent((await result<{ content: string }>({ action: "files", op: "read", path }))?.content ?? "")}
            >
              {path}
            </button>
          </li>
        ))}
      </ul>
      <pre aria-label="content">{content}</pre>
    </fieldset>
  );
}
