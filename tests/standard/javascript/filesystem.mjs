// Files of a sandbox.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sandbox } from "./cloud.mjs";

test("texts and bytes are written and read", async () => {
  const { filesystem } = await sandbox();
  await filesystem.writeText("grüße\n", "/tmp/a/b/text");
  assert.equal(await filesystem.readText("/tmp/a/b/text"), "grüße\n");
  const bytes = new Uint8Array(2_500_000).map((_, index) => index % 251);
  await filesystem.writeBytes(bytes, "/tmp/bytes");
  assert.ok(Buffer.from(await filesystem.readBytes("/tmp/bytes")).equals(Buffer.from(bytes)));
});

test("directories are made, listed, described and removed", async () => {
  const { filesystem } = await sandbox();
  await filesystem.makeDirectory("/tmp/one/two");
  await filesystem.writeText("12345", "/tmp/one/file");
  const names = (await filesystem.listFiles("/tmp/one")).map((entry) => [entry.name, entry.type]);
  assert.deepEqual(names.sort(), [["file", "file"], ["two", "directory"]]);
  const info = await filesystem.stat("/tmp/one/file");
  assert.equal(info.size, 5);
  assert.match(info.permissions, /^0[0-7]{3}$/);
  assert.equal(info.mode & 0o170000, 0o100000);
  await filesystem.remove("/tmp/one", { recursive: true });
  await assert.rejects(filesystem.stat("/tmp/one/file"), { name: "SandboxFilesystemNotFoundError" });
});

test("files are copied in and out", async () => {
  const { filesystem } = await sandbox();
  const directory = await mkdtemp(join(tmpdir(), "workbench-js-"));
  try {
    await writeFile(join(directory, "in"), "carried");
    await filesystem.copyFromLocal(join(directory, "in"), "/tmp/carried");
    await filesystem.copyToLocal("/tmp/carried", join(directory, "out"));
    assert.equal(await readFile(join(directory, "out"), "utf8"), "carried");
  } finally {
    await rm(directory, { recursive: true });
  }
});

test("changes are watched", async () => {
  const { filesystem } = await sandbox();
  await filesystem.makeDirectory("/tmp/watched");
  let number = 0;
  const writing = setInterval(() => filesystem.writeText("x", `/tmp/watched/${number++}`).catch(() => {}), 300);
  try {
    for await (const event of filesystem.watch("/tmp/watched", { timeoutMs: 30_000 })) {
      assert.equal(event.eventType, "Create");
      assert.match(event.paths[0], /^\/tmp\/watched\//);
      return;
    }
    assert.fail("nothing was seen");
  } finally {
    clearInterval(writing);
  }
});
