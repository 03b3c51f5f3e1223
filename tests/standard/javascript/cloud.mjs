// What all scripts share: one client of the cloud that the environment names, an app, an image, and sandboxes that end.

import { after } from "node:test";
import { ModalClient } from "modal";

export const modal = new ModalClient();
export const app = await modal.apps.fromName("javascript", { createIfMissing: true });
export const image = modal.images.fromRegistry(process.env.BASE_IMAGE);
export const name = (prefix) => `${prefix}-${Math.random().toString(36).slice(2)}`;

const made = [];

/** Create a sandbox that is terminated when the script ends. */
export async function sandbox(params = {}) {
  const created = await modal.sandboxes.create(app, image, { timeoutMs: 120_000, ...params });
  made.push(created);
  return created;
}

after(async () => {
  await Promise.all(made.map((one) => one.terminate()));
  modal.close();
});
