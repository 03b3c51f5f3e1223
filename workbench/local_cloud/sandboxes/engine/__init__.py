"""How a sandbox is made of bubblewrap and an agent, and how its programs are started, heard and ended."""
