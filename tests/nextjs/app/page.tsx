import { RunPane } from "./run-pane";

/** One pane, or as many as `?panes=` says: each has a project of its own. */
export default async function Page({ searchParams }: { searchParams: Promise<{ panes?: string; run?: string }> }) {
  const { panes = "1", run } = await searchParams;
  const names = Array.from({ length: Math.min(Number(panes) || 1, 12) }, (_, at) => (at === 0 ? "main" : `pane-${at}`));
  return (
    <main>
      <h1>Runs</h1>
      {names.map((name) => (
        <RunPane key={name} name={name} shared={run} />
      ))}
    </main>
  );
}
