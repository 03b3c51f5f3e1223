"""What a Next.js application gets from us: a client in TypeScript, as files that its team owns, and its settings."""
