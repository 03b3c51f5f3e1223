import { runs } from "../../../../lib/runs";

export const dynamic = "force-dynamic";
export const maxDuration = 900;

export const { GET, DELETE } = runs;
