import type { NextConfig } from "next";

const config: NextConfig = {
  // `proxy.ts` would cut bodies at 10 MB: files to be written may be as large as the endpoint takes them.
  experimental: { proxyClientMaxBodySize: "33mb" },
  turbopack: { root: process.cwd() },
};

export default config;
