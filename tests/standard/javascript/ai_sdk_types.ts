// Our description of the AI SDK's types is that of the real ones: compiled, never run.
import type { ChatTransport, UIMessage, UIMessageChunk } from "ai";
import { RunTransport, standing, uiMessageStream, type RunData, type RunMetadata, type UiChunk } from "./workbench/ai-sdk";
import { createClient } from "./workbench/client";

type Message = UIMessage<RunMetadata, RunData>;
const client = createClient({ url: "/api/runs" });

export const transport: ChatTransport<Message> = new RunTransport(client, { jobOf: (messages) => ({ prompt: `${messages.length}` }) });
export const chunk = (one: UiChunk): UIMessageChunk<RunMetadata, RunData> => one;
export const stream: ReadableStream<UIMessageChunk> = uiMessageStream((signal) => client.follow("id", { signal }));
export const parts = (message: Message): Message["parts"] => standing(message.parts);
export const paths = (message: Message): string[] =>
  message.parts.flatMap((part) => (part.type === "data-file" ? [part.data.path] : []));
