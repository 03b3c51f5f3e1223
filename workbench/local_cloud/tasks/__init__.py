"""What runs now, as `modal container` lists it: containers of functions and sandboxes."""
