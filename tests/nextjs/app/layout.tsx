import type { Metadata } from "next";
import type { ReactNode } from "react";

export const metadata: Metadata = { title: "Runs", icons: { icon: "data:," } };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body style={{ fontFamily: "sans-serif", maxWidth: "48rem", margin: "2rem auto" }}>{children}</body>
    </html>
  );
}
