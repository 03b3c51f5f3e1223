import { NextResponse, type NextRequest } from "next/server";

/** Signs everybody in: here stands the application's own way to do it. */
export function proxy(request: NextRequest): NextResponse {
  const answer = NextResponse.next();
  if (!request.cookies.has("session")) {
    answer.cookies.set("session", crypto.randomUUID(), { httpOnly: true, sameSite: "lax", path: "/" });
  }
  return answer;
}
