import { runs } from "../../../lib/runs";

export const dynamic = "force-dynamic";
export const maxDuration = 900; // UPSTREAM_S of lib/workbench/constants.ts: a host with less cuts, and the client resumes

export const { POST } = runs;
