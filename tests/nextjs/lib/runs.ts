import { createHash } from "node:crypto";
import { cookies } from "next/headers";
import { createRunRoutes } from "./workbench/routes";

/** An id that nobody can choose: it follows from the session, whose cookie no page can read. */
function idOf(...words: string[]): string {
  const digest = createHash("sha256").update(words.join("\n")).digest("hex");
  return digest.slice(0, 32).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** The handlers: whose run it is says the session, and in which of his projects the header `X-Project`. */
export const runs = createRunRoutes({
  async authorize(request) {
    const session = (await cookies()).get("session")?.value;
    if (session === undefined || !/^[0-9a-f-]{36}$/.test(session)) return null;
    const project = request.headers.get("x-project") ?? "main";
    return { user_id: idOf(session), project_id: idOf(session, project) };
  },
  accept: (job) => ("mcp_config" in job ? null : job),
});
