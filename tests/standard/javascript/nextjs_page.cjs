// Drives the route handlers of the documentation's page as Next.js does, and its reader as a browser does.
const { POST } = require("./out/app/api/generate/route.js");
const { GET, DELETE } = require("./out/app/api/generate/[runId]/route.js");
const { follow } = require("./out/lib/follow.js");

const user = crypto.randomUUID();
const project_id = crypto.randomUUID();
const at = (runId) => ({ params: Promise.resolve({ runId }) });
const ask = (init, who = user) => new Request("http://app/api/generate", { ...init, headers: { "x-user": who, ...init.headers } });
const post = (body, who) => POST(ask({ method: "POST", body: JSON.stringify({ project_id, ...body }) }, who));
const resume = (runId, after) => GET(ask({ headers: { "Last-Event-ID": `${after}` } }), at(runId));

/** An answer whose connection breaks after so many bytes. */
async function cut(answer, bytes) {
  const reader = answer.body.getReader();
  let left = bytes;
  const body = new ReadableStream({
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done || left <= 0) {
        await reader.cancel();
        return controller.error(new Error("the connection broke"));
      }
      left -= value.length;
      controller.enqueue(value);
    },
  });
  return new Response(body, { status: answer.status });
}

(async () => {
  const said = {};
  const python = { action: "python", code: "import time\nfor i in range(5):\n  print('line', i); time.sleep(0.1)" };
  const seen = [];
  let resumed = 0;
  const again = async (runId, after) => (resumed++, resume(runId, after));
  for await (const event of follow(async () => cut(await post(python), 600), again)) seen.push(event);
  said.seqs = seen.map((event) => event.seq);
  said.end = seen.at(-1).type;
  said.text = seen.filter((event) => event.type === "stream").map((event) => event.text).join("");
  said.resumed = resumed > 0;
  said.nothing_more = (await resume(seen[0].run_id, seen.length)).status;
  said.of_another_user = (await GET(ask({}, crypto.randomUUID()), at(seen[0].run_id))).status;

  const endless = await post({ action: "python", code: "import time; time.sleep(100)" });
  said.headers = ["content-type", "cache-control", "x-accel-buffering"].map((name) => endless.headers.get(name));
  const cancelled = await DELETE(ask({ method: "DELETE" }), at(endless.headers.get("x-run-id")));
  said.cancelled = (await cancelled.json()).outcome;
  await endless.body.cancel();

  const refused = await post({ action: "python", colour: "red" });
  said.refused = [refused.status, (await refused.json()).code];
  said.nobody = (await POST(new Request("http://app/api/generate", { method: "POST", body: "{}" }))).status;
  console.log(JSON.stringify(said));
})();
