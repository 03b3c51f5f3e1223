"""Tasks, as `modal container` lists them: containers of functions, and sandboxes."""
