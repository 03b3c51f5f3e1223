/**
 * What a run's events show a person: words, thoughts, tools with their answers, output. Pure: it only adds up events.
 *
 * Words that the model took back disappear here, too: an event may say which block it `replaces`.
 */
import type { ClaudeMessage, ClaudePartial, ClaudeToolResult, RunEvent, RunStreamEvent } from "./contract";

/** One thing to show. `subagent` is the id of the tool call that has started the subagent whose part it is. */
export type Part =
  | { readonly kind: "output"; readonly id: string; readonly channel: "stdout" | "stderr"; readonly text: string }
  | { readonly kind: "text" | "thinking"; readonly id: string; readonly text: string; readonly subagent: string | null }
  | {
      readonly kind: "tool";
      readonly id: string;
      readonly name: string;
      /** The input's JSON as far as it has come. */
      readonly input: string;
      /** What the tool has answered; undefined while it works. */
      readonly result: string | undefined;
      readonly failed: boolean;
      readonly subagent: string | null;
    };

/** Adds up the events of one run. */
export class Conversation {
  #parts = new Map<string, Part>(); // in the order in which they began
  #tools = new Map<string, string>(); // from the name of a tool's block to the tool's id
  #outputs = 0;
  #last: Part | undefined;

  /** What is to be shown now. Parts that have not changed are the same objects as before. */
  get parts(): readonly Part[] {
    return [...this.#parts.values()];
  }

  /** Takes the next event. */
  add(event: RunEvent): void {
    if (event.type !== "stream") return;
    if (event.replaces !== undefined) this.#withdraw(event.replaces);
    if (event.channel !== "claude") this.#output(event.channel, event.text);
    else if (event.message === undefined) this.#words(event);
    else this.#message(event.message);
  }

  #words(event: RunStreamEvent): void {
    if (event.text !== "") this.#say("text", event.message_id ?? "", event.text, null);
  }

  #output(channel: "stdout" | "stderr", text: string): void {
    const last = this.#last;
    const goesOn = last?.kind === "output" && last.channel === channel;
    const id = goesOn ? last.id : `output#${this.#outputs++}`;
    this.#put({ kind: "output", id, channel, text: (goesOn ? last.text : "") + text });
  }

  #message(message: ClaudeMessage): void {
    if (message.type === "stream_event") this.#partial(message);
    else if (message.type === "assistant") {
      if (message.is_api_error_message !== true) this.#whole(message); // the CLI's words: the run's end tells the error
    } else if (message.type === "user" && typeof message.message?.content !== "string") {
      for (const block of message.message?.content ?? []) if (block.type === "tool_result") this.#answer(block);
    }
  }

  #partial({ event, api_message_id, parent_tool_use_id: subagent }: ClaudePartial): void {
    if (event?.type === "content_block_start" && event.content_block.type === "tool_use") {
      const { id, name } = event.content_block;
      this.#tools.set(`${api_message_id}#${event.index}`, id);
      this.#put({ kind: "tool", id, name, input: "", result: undefined, failed: false, subagent });
    } else if (event?.type === "content_block_delta") {
      const block = `${api_message_id}#${event.index}`;
      const tool = this.#parts.get(this.#tools.get(block) ?? "");
      if (event.delta.type === "text_delta") this.#say("text", block, event.delta.text, subagent);
      else if (event.delta.type === "thinking_delta") this.#say("thinking", block, event.delta.thinking, subagent);
      else if (event.delta.type === "input_json_delta" && tool?.kind === "tool") {
        this.#put({ ...tool, input: tool.input + event.delta.partial_json });
      }
    }
  }

  /** A block that is whole: most have come in pieces before, but not after a connection of the model has broken. */
  #whole({ message, parent_tool_use_id: subagent }: Extract<ClaudeMessage, { type: "assistant" }>): void {
    for (const block of message?.content ?? []) {
      if (block.type === "tool_use") {
        const { id, name } = block;
        const there = this.#parts.get(id);
        const known = there?.kind === "tool" ? there : { result: undefined, failed: false };
        const { result, failed } = known;
        this.#put({ kind: "tool", id, name, input: JSON.stringify(block.input), result, failed, subagent });
      } else {
        const text = block.type === "text" ? block.text : block.thinking;
        const whole = `${message.id}#${block.type}`;
        const came = [...this.#parts.values()].filter((part) => part.kind === block.type && blockOf(part.id, message.id));
        if (came.some(({ id }) => !id.startsWith(whole)) || !text) continue;
        this.#say(block.type, `${whole}${came.length || ""}`, text, subagent);
      }
    }
  }

  #answer({ tool_use_id, content, is_error }: ClaudeToolResult): void {
    const tool = this.#parts.get(tool_use_id);
    if (tool?.kind === "tool") this.#put({ ...tool, result: textOf(content), failed: is_error === true });
  }

  #say(kind: "text" | "thinking", id: string, text: string, subagent: string | null): void {
    const there = this.#parts.get(id);
    this.#put({ kind, id, text: (there?.kind === kind ? there.text : "") + text, subagent });
  }

  #put(part: Part): void {
    this.#parts.set(part.id, part);
    this.#last = part;
  }

  #withdraw(name: string): void {
    for (const id of this.#parts.keys()) if (id === name || blockOf(id, name)) this.#parts.delete(id);
  }
}

/** Whether a block's name is that of a block of this message. */
function blockOf(id: string, message: string): boolean {
  return id.startsWith(`${message}#`);
}

/** A tool's answer as text: it is a text, or blocks of which some are text. */
export function textOf(content: ClaudeToolResult["content"]): string {
  if (content === undefined || typeof content === "string") return content ?? "";
  return content.map((block) => (typeof block["text"] === "string" ? block["text"] : JSON.stringify(block))).join("\n");
}
