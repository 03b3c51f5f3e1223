// Sandboxes: made, found, talked to and ended. Run for both families of sandbox RPCs.

import assert from "node:assert/strict";
import { test } from "node:test";
import { app, modal, name, sandbox } from "./cloud.mjs";

test("the family is the one that was asked for", async () => {
  const created = await sandbox();
  const characters = created.sandboxId.split("-")[1].length;
  assert.equal(characters === 22, process.env.MODAL_SANDBOX_V2 === "0");
});

test("output, input, environment and exit code of a program", async () => {
  const created = await sandbox({ env: { ONE: "1" }, secrets: [await modal.secrets.fromObject({ TWO: "2" })] });
  const program = ["sh", "-c", "read word; echo $word $ONE $TWO $THREE; pwd; echo oops >&2; exit 3"];
  const running = await created.exec(program, { env: { THREE: "3" }, workdir: "/tmp" });
  await running.stdin.writeText("hello\n");
  assert.equal(await running.stdout.readText(), "hello 1 2 3\n/tmp\n");
  assert.equal(await running.stderr.readText(), "oops\n");
  assert.equal(await running.wait(), 3);
});

test("large binary output is exact", async () => {
  const created = await sandbox();
  const running = await created.exec(["sh", "-c", "head -c 3000000 /dev/zero"], { mode: "binary" });
  const bytes = await running.stdout.readBytes();
  assert.equal(bytes.length, 3_000_000);
  assert.ok(bytes.every((byte) => byte === 0));
  assert.equal(await running.wait(), 0);
});

test("a sandbox's own program is written to, read from and waited for", async () => {
  const created = await sandbox({ command: ["sh", "-c", "cat; echo gone >&2; exit 5"] });
  assert.equal(await created.poll(), null);
  await created.stdin.writeText("one\n");
  await created.stdin.writeText("zwei ü\n");
  await created.stdin.close();
  assert.equal(await created.stdout.readText(), "one\nzwei ü\n");
  assert.equal(await created.stderr.readText(), "gone\n");
  assert.equal(await created.wait(), 5);
  assert.equal(await created.poll(), 5);
});

test("characters come whole however the output is cut", async () => {
  const code = "import sys; sys.stdout.write('a' + 'ü€😀' * 300000)";
  const created = await sandbox({ command: ["python3", "-c", code] });
  assert.ok((await created.stdout.readText()) === "a" + "ü€😀".repeat(300_000));
  assert.equal(await created.wait(), 0);
});

test("a sandbox is found by its id, its name and its tags", async () => {
  const own = name("sandbox");
  const created = await sandbox({ name: own, tags: { which: own, colour: "red" } });
  assert.equal((await modal.sandboxes.fromName("javascript", own)).sandboxId, created.sandboxId);
  await assert.rejects(sandbox({ name: own }), { name: "AlreadyExistsError" });

  const again = await modal.sandboxes.fromId(created.sandboxId);
  assert.equal(await (await again.exec(["echo", "again"])).stdout.readText(), "again\n");

  assert.deepEqual(await created.getTags(), { which: own, colour: "red" });
  await created.setTags({ which: own, colour: "green" });
  const listed = [];
  for await (const one of modal.sandboxes.list({ appId: app.appId, tags: { which: own } })) listed.push(one.sandboxId);
  assert.deepEqual(listed, [created.sandboxId]);
  for await (const _ of modal.sandboxes.list({ appId: app.appId, tags: { which: own, colour: "red" } })) {
    assert.fail("it has no such tag any more");
  }
});

test("a terminated sandbox says so and takes nothing more", async () => {
  const created = await sandbox({ command: ["sleep", "600"] });
  await created.exec(["true"]);
  assert.equal(await created.terminate({ wait: true }), 137);
  assert.equal(await created.poll(), 137);
  await assert.rejects(modal.sandboxes.fromName("javascript", name("nobody")), { name: "NotFoundError" });
});

test("a timeout ends a sandbox", async () => {
  const created = await sandbox({ command: ["sleep", "600"], timeoutMs: 1000 });
  assert.equal(await created.wait(), 124);
});

test("a tunnel leads to a port", async () => {
  const program = "import socket; s = socket.create_server(('', 8000)); c, _ = s.accept(); c.sendall(b'hello'); c.close()";
  const created = await sandbox({ command: ["python3", "-c", program], unencryptedPorts: [8000] });
  const tunnel = (await created.tunnels())[8000];
  const { connect } = await import("node:net");
  let said = "";
  const deadline = Date.now() + 30_000;
  while (!said && Date.now() < deadline) {
    said = await new Promise((resolve) => {
      let text = "";
      const socket = connect(tunnel.unencryptedPort, tunnel.unencryptedHost);
      socket.on("data", (data) => (text += data)).on("error", () => {}).on("close", () => resolve(text));
    });
    if (!said) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(said, "hello");
});

test("a snapshot of the file system starts another sandbox", async () => {
  const created = await sandbox();
  assert.equal(await (await created.exec(["sh", "-c", "echo kept > /root/note"])).wait(), 0);
  const snapshot = await created.snapshotFilesystem();
  const second = await modal.sandboxes.create(app, snapshot, { command: ["cat", "/root/note"], timeoutMs: 60_000 });
  assert.equal(await second.stdout.readText(), "kept\n");
  assert.equal(await second.wait(), 0);
});

test("GPUs and terminals as programs are refused by name", async () => {
  await assert.rejects(sandbox({ gpu: "T4" }), /gpu is not implemented by the local cloud/);
  await assert.rejects(sandbox({ pty: true }), /pty is not implemented by the local cloud/);
});

test("an address that is none is refused with its value", async () => {
  await assert.rejects(sandbox({ outboundCidrAllowlist: ["10.0.0.0/99"] }), /INVALID_ARGUMENT.*10\.0\.0\.0\/99/);
});
