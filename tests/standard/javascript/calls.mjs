// Functions and classes that were deployed from Python.

import assert from "node:assert/strict";
import { test } from "node:test";
import { modal } from "./cloud.mjs";

const call = async (name, ...rest) => (await modal.functions.fromName("calls", name)).remote(...rest);

test("a function takes arguments and returns a value", async () => {
  assert.equal(await call("square", [7]), 49);
  assert.equal(await call("add", [7], { y: 3 }), 10);
});

test("large values travel both ways", async () => {
  assert.equal((await call("big", [3_000_000])).length, 3_000_000);
  assert.equal(await call("length", [new Uint8Array(3_000_000)]), 3_000_000);
});

test("an exception comes back by its text", async () => {
  await assert.rejects(call("refuse", [7]), { name: "RemoteError", message: /no 7/ });
});

test("a function's timeout comes back as one", async () => {
  await assert.rejects(call("slow", [60]), { name: "FunctionTimeoutError" });
});

test("a method of a class is called with the class's parameters", async () => {
  const counter = await (await modal.cls.fromName("calls", "Counter")).instance({ start: 5 });
  assert.equal(await counter.method("increase").remote([2]), 7);
});

test("a call that was spawned is found again and gives its result", async () => {
  const spawned = await (await modal.functions.fromName("calls", "square")).spawn([9]);
  assert.equal(await spawned.get(), 81);
  const found = await modal.functionCalls.fromId(spawned.functionCallId);
  assert.equal(await found.get({ timeoutMs: 10_000 }), 81);
});

test("a call is waited for no longer than was said, and cancelled", async () => {
  const spawned = await (await modal.functions.fromName("calls", "sleep")).spawn([600]);
  await assert.rejects(spawned.get({ timeoutMs: 200 }), { name: "TimeoutError" });
  await spawned.cancel();
  await assert.rejects(spawned.get({ timeoutMs: 30_000 }), { name: "RemoteError", message: /cancelled/ });
});

test("what is not deployed is not found", async () => {
  await assert.rejects(modal.functions.fromName("calls", "nothing"), { name: "NotFoundError" });
  await assert.rejects(modal.cls.fromName("calls", "Nothing"), { name: "NotFoundError" });
});

test("a function tells what runs of it, and scales", async () => {
  const square = await modal.functions.fromName("calls", "square");
  await square.updateAutoscaler({ minContainers: 2 });
  try {
    const deadline = Date.now() + 60_000;
    while ((await square.getCurrentStats()).numTotalRunners < 2) {
      assert.ok(Date.now() < deadline, "the containers did not come");
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  } finally {
    await square.updateAutoscaler({ minContainers: 0 });
  }
});
