// What a table of runs is grouped by, and how its times and outcomes are spread.

const BINS = 24;

// What runs are grouped by: the words of a row's group.
const GROUPS = {
  outcome: (row) => row.cells[3],
  reason: (row) => row.reason || "no reason",
  action: (row) => row.cells[1] || "no action",
  project: (row) => row.project || row.cells[2] || "no project",
  day: (row) => row.cells[0].slice(0, 10) || "no day",
};

const succeeded = (row) => row.cells[3] === "done";

function middle(numbers) {
  const sorted = [...numbers].sort((one, other) => one - other);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
}

// Rows in groups, the groups in the order of their first rows; one group without a name when nothing groups them.
function grouped(rows, by) {
  if (!GROUPS[by]) return [["", rows]];
  const groups = new Map();
  for (const row of rows) {
    const name = GROUPS[by](row);
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  return [...groups];
}

function summary(rows) {
  const ended = rows.filter((row) => !row.live && !row.problem);
  const failed = ended.filter((row) => !succeeded(row)).length;
  const words = [`${rows.length} run${rows.length === 1 ? "" : "s"}`];
  if (failed) words.push(`${failed} not done`);
  if (ended.length) words.push(`half took at most ${lasting(middle(ended.map((row) => row.took_ms)))}`);
  return words.join(", ");
}

// A histogram of how long runs took, on a scale where each step is so many times the last, done ones below the others.
function histogram(rows) {
  const ended = rows.filter((row) => !row.live && !row.problem);
  if (!ended.length) return placeholder("empty", "No run that has ended is shown");
  const times = ended.map((row) => Math.max(1, row.took_ms));
  const least = Math.log(Math.min(...times));
  const step = Math.max(1e-9, (Math.log(Math.max(...times)) - least) / BINS);
  const bins = Array.from({ length: BINS }, () => ({ done: 0, other: 0 }));
  ended.forEach((row, index) => {
    bins[Math.min(BINS - 1, Math.floor((Math.log(times[index]) - least) / step))][succeeded(row) ? "done" : "other"] += 1;
  });
  const most = Math.max(...bins.map(({ done, other }) => done + other));
  const node = element("div", "wb-histogram");
  const bars = spoken(element("div", "wb-bars"), `How long runs took: ${summary(ended)}`);
  bars.removeAttribute("title");
  bins.forEach(({ done, other }, index) => {
    const [from, to] = [0, 1].map((more) => lasting(Math.exp(least + (index + more) * step)));
    const bar = element("span", "wb-bin", "", { title: `${from} to ${to}: ${done} done, ${other} not` });
    for (const [kind, count] of [["bad", other], ["good", done]]) {
      const part = element("span", "wb-part-of", "", { "data-kind": kind });
      part.style.height = `${(100 * count) / most}%`;
      bar.append(part);
    }
    bars.append(bar);
  });
  const axis = element("div", "wb-axis wb-quiet wb-figure");
  axis.append(element("span", "", lasting(Math.min(...times))), element("span", "", summary(ended)), element("span", "", lasting(Math.max(...times))));
  node.append(bars, axis);
  return node;
}
