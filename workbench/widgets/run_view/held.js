// Answers a view's questions from the rows that the page holds: all that there is when the kernel has ended.

function heldAnswer(lines, question) {
  const held = [...lines.rows.values()].sort((one, other) => one.number - other.number);
  const has = (row, text) => !text || lower(row.text).includes(lower(text));
  const hides = ({ channel }) => channel !== "error" && question.hidden.includes(channel === "done" ? "status" : channel);
  const chosen = question.type === "body" ? [] : held.filter((row) => !hides(row) && has(row, question.wanted));
  const known = { whole: true, forgotten: lines.forgotten, alarms: lines.alarms };
  if (question.type === "rows") {
    const from = question.from < 0 ? Math.max(0, chosen.length - question.count) : question.from;
    const numbers = chosen.slice(from, from + question.count).map((row) => row.number);
    return [{ ...known, from, begin: 0, end: chosen.length }, numbers];
  }
  if (question.type === "match") {
    const forError = question.sought === null;
    const hits = forError ? worst(chosen) : chosen.filter((row) => has(row, question.sought));
    const reason = forError && question.by > 0 && question.reason ? reasonOf(chosen, question.reason) : undefined;
    const found = nextOf(hits, chosen, question);
    if (reason && reason.number !== question.number) Object.assign(found, placed(reason, chosen, question), { at: hits.indexOf(reason) });
    const missing = forError && Boolean(question.reason) && !reasonOf(held, question.reason);
    return [{ ...known, ...found, total: hits.length, missing }];
  }
  if (question.type === "copy") {
    const filtered = question.hidden.length > 0 || question.wanted !== "";
    const of = filtered ? chosen.length : lines.total - lines.forgotten;
    return [{ ...known, lines: chosen.length, rows: chosen.length, of }, chosen.map((row) => row.text).join("\n")];
  }
  return [known, ""];
}

// What tells of an error, or where nothing does, what was said on stderr.
function worst(rows) {
  const errors = rows.filter((row) => row.channel === "error" || row.kind === "failure");
  return errors.length ? errors : rows.filter((row) => row.channel === "stderr");
}

const LINE = 200; // characters by which a line is known, as in paging.py

// The row of stderr that tells why the program failed, whose text is known: the last that is this line, or has it.
function reasonOf(rows, line) {
  const told = rows.filter((row) => row.channel === "stderr" && lower(row.text).includes(lower(line)));
  const bare = (text) => [...text.replace(/^[ |+]+|[ |+]+$/g, "")].slice(0, LINE).join("");
  return told.findLast((row) => bare(row.text) === line) ?? told.at(-1);
}

function placed({ number }, chosen, { hidden, wanted }) {
  return { number, place: hidden.length || wanted ? chosen.findIndex((row) => row.number === number) : number };
}

// The hit after a row or before it, round and round.
function nextOf(hits, chosen, question) {
  const { number, by, stay } = question;
  const here = hits.findIndex((row) => row.number === number);
  let at = here;
  if (by && !(stay && here >= 0)) {
    const ahead = by > 0 ? hits.findIndex((row) => row.number > number) : hits.findLastIndex((row) => row.number < number);
    at = ahead >= 0 ? ahead : by > 0 ? 0 : hits.length - 1;
  }
  const row = hits[at];
  if (!row) return { number: null, place: null, at: null };
  return { ...placed(row, chosen, question), at };
}
