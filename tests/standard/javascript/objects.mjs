// Volumes, secrets and queues.

import assert from "node:assert/strict";
import { test } from "node:test";
import { app, image, modal, name, sandbox } from "./cloud.mjs";

const read = async (params) => {
  const created = await sandbox(params);
  const text = (await created.stdout.readText()) + (await created.stderr.readText());
  return [text, await created.wait()];
};

test("a volume carries files from one sandbox to the next", async () => {
  const own = name("volume");
  const volume = await modal.volumes.fromName(own, { createIfMissing: true });
  assert.deepEqual(await read({ volumes: { "/data": volume }, command: ["sh", "-c", "echo hi > /data/a"] }), ["", 0]);
  const readOnly = (await modal.volumes.fromName(own)).withMountOptions({ readOnly: true });
  const command = ["sh", "-c", "cat /data/a; touch /data/b 2>/dev/null || echo no"];
  assert.deepEqual(await read({ volumes: { "/data": readOnly }, command }), ["hi\nno\n", 0]);
  await modal.volumes.delete(own);
  await assert.rejects(modal.volumes.fromName(own), { name: "NotFoundError" });
});

test("an ephemeral volume is mounted", async () => {
  const volume = await modal.volumes.ephemeral();
  const command = ["sh", "-c", "echo hi > /data/a; cat /data/a"];
  assert.deepEqual(await read({ volumes: { "/data": volume }, command }), ["hi\n", 0]);
  volume.closeEphemeral();
});

test("a secret gives its values", async () => {
  const own = await modal.secrets.fromObject({ WORD: "hush" });
  assert.deepEqual(await read({ secrets: [own], command: ["sh", "-c", "echo $WORD"] }), ["hush\n", 0]);
  await assert.rejects(modal.secrets.fromName(name("nothing")), { name: "NotFoundError" });
});

test("a queue keeps values in their order, by partitions", async () => {
  const own = name("queue");
  const queue = await modal.queues.fromName(own, { createIfMissing: true });
  await queue.put({ a: 1 });
  await queue.putMany([2, "three"]);
  await queue.put("other", { partition: "p" });
  assert.equal(await queue.len(), 3);
  assert.deepEqual(await queue.get(), { a: 1 });
  assert.deepEqual(await queue.getMany(2), [2, "three"]);
  await assert.rejects(queue.get({ timeoutMs: 100 }), { name: "QueueEmptyError" });
  const seen = [];
  for await (const value of queue.iterate({ partition: "p", itemPollTimeoutMs: 200 })) seen.push(value);
  assert.deepEqual(seen, ["other"]);
  await queue.clear({ all: true });
  assert.equal(await queue.len({ total: true }), 0);
  await modal.queues.delete(own);
});

test("an image is built in layers", async () => {
  const layered = image.dockerfileCommands(["ENV LAYER=second", "WORKDIR /work"]);
  const created = await modal.sandboxes.create(app, layered, { command: ["sh", "-c", "echo $LAYER; pwd"] });
  assert.equal(await created.stdout.readText(), "second\n/work\n");
  assert.equal(await created.wait(), 0);
  const known = await modal.images.fromId(layered.imageId);
  assert.equal(known.imageId, layered.imageId);
});

test("a base image of a registry that is away is refused by name", async () => {
  const away = modal.images.fromRegistry("127.0.0.1:9/alpine:3.21").build(app);
  await assert.rejects(away, /127\.0\.0\.1:9\/alpine:3\.21 was not pulled/);
});
