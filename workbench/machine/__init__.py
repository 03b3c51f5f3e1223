"""The machine that the workbench runs on: what it has and lacks, and private files and directories on it."""
